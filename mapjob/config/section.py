"""What every part of the run file is: a frozen mapping in which an unknown key is an error."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    explained_by: ClassVar[str] = "mapjob config schema"  # the command that lists the keys
