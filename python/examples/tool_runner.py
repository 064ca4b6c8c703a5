"""An agent's tool runner: every tool call gets a budget, and an answer that says how it went.

    python3 tool_runner.py 'ls -l' 'setsid sleep 1000 & echo started' ':(){ :|:& };:' 'sleep 60'

Whatever a call does, and whatever it tries to leave running, the runner goes on.
"""

import asyncio
import json
import sys

import cgrove

BUDGET = cgrove.RunOptions(pids_max=64, timeout=2, kill_grace=0.2)
OUTPUT = 10_000  # bytes of output that a model is shown


async def call(line: str) -> dict[str, object]:
    """Runs one line of shell; what went wrong is part of the answer, never an exception."""
    try:
        result = await cgrove.run_async(
            ["bash", "-c", line], input=b"", capture_output=True, **BUDGET
        )
    except cgrove.CgroveError as error:
        return {"call": line, "error": str(error)}
    report = result.report
    return {
        "call": line,
        "ended": report.describe(),
        "output": (result.out + result.err)[:OUTPUT],
        "cpu_seconds": round(report.cpu.total_ns / 1e9, 3),
        "forks_refused": report.forks.refused,
        "killed_left_behind": [" ".join(one.cmdline) for one in report.left_behind.processes][:5],
    }


async def main(lines: list[str]) -> None:
    """All calls at once, each in a cgroup of its own."""
    for answer in await asyncio.gather(*map(call, lines)):
        print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["echo hello", "setsid sleep 1000 & echo started"]))
