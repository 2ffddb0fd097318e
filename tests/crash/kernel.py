"""Runs where ipykernel is installed: cells in one kernel, as a notebook runs them. Prints what each of them printed, or
the name and the message of what it raised, as a JSON list. Arguments: the run file, the folder of its outputs.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from jupyter_client.manager import start_new_kernel

CELL = """
import mapjob
from mapjob.config.load import load_config
from mapjob.errors import IncompleteError
manifest = None
while manifest is None:
    try:
        manifest = mapjob.run(load_config({path!r}, {overrides!r}))
    except IncompleteError as error:
        if "no Ray came up" not in error.what:  # in half a minute: this machine is busy
            raise
print(manifest["counts"]["ranked"], manifest["run_id"])
"""
MOST_S = 180


def count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def run_cells(path: str, outputs: Path) -> list[list[str]]:
    manager, client = start_new_kernel(kernel_name="python3")

    def run(code: str) -> list[str]:
        said: list[str] = []

        def hear(message: dict) -> None:
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                said.extend((content["ename"], content["evalue"]))

        client.execute_interactive(code, timeout=MOST_S, output_hook=hear)
        return "".join(said).splitlines() if len(said) == 1 else said

    def cell(output: str, *overrides: str) -> str:
        return CELL.format(path=path, overrides=[f"output.path={outputs / output}", *overrides])

    def interrupt() -> None:
        ends = time.monotonic() + MOST_S
        while count_files(outputs / "interrupted") < 8 and time.monotonic() < ends:
            time.sleep(0.01)
        manager.interrupt_kernel()

    try:
        stalling = cell("stalled", "execution.stall_after_s=0.5")
        told = [run(cell("first")), run(cell("second")), run(stalling)]
        threading.Thread(target=interrupt).start()
        told += [run(cell("interrupted")), run(cell("interrupted")), run(cell("stalled")), run("print(6 * 7)")]
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    return told


if __name__ == "__main__":
    print(json.dumps(run_cells(sys.argv[1], Path(sys.argv[2]))))
