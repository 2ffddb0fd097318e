"""What every part of the run file is: a frozen mapping in which an unknown key is an error."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
