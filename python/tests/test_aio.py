"""The same under asyncio; cancelling kills."""

import asyncio
import os
import signal
import subprocess
import unittest

import cgrove

from .kit import AT_MOST, LEAVES_ONE, PATIENCE, Case, shell

PIPE = subprocess.PIPE


class Pipe:
    """What a command says through a descriptor of its own, for as long as anybody has that."""

    def __enter__(self):
        read, self.write = os.pipe()
        self.read = os.fdopen(read, "rb", buffering=0)
        os.set_blocking(read, False)
        return self

    def ends_with(self, task):
        """Our own end goes with the task, so that a run that never starts says nothing."""
        task.add_done_callback(lambda _: os.close(self.write))

    async def line(self):
        loop, said = asyncio.get_running_loop(), b""
        while not said.endswith(b"\n"):
            ready = loop.create_future()
            loop.add_reader(self.read, lambda: ready.done() or ready.set_result(None))
            await asyncio.wait_for(ready, PATIENCE)
            loop.remove_reader(self.read)
            byte = self.read.read(1)
            if not byte:
                break
            said += byte
        return said

    def __exit__(self, *error):
        self.read.close()


class Asyncio(Case, unittest.IsolatedAsyncioTestCase):
    async def test_many_at_once(self):
        runs = [cgrove.run_async(shell(f"cat; exit {n}"), input=str(n), capture_output=True)
                for n in range(8)]
        results = await asyncio.wait_for(asyncio.gather(*runs), PATIENCE)
        self.assertEqual([result.returncode for result in results], list(range(8)))
        self.assertEqual([result.out for result in results], [str(n) for n in range(8)])

    async def test_errors(self):
        with self.assertRaisesRegex(cgrove.CgroveError, "number") as caught:
            await cgrove.run_async(["true"], pids_max=-1, capture_output=True)
        self.assert_one_line(caught.exception)
        process = await cgrove.start_async(["true"], pids_max=-1, stderr=PIPE)
        with self.assertRaisesRegex(cgrove.CgroveError, "number"):
            await process.wait()
        with self.assertRaises(cgrove.CommandFailed):
            await cgrove.run_async(["false"], check=True)
        with self.assertRaises(cgrove.NotFound):
            await cgrove.run_async(["true"], binary="/no/such/cgrove")
        with self.assertRaises(FileNotFoundError):
            await cgrove.run_async(["true"], cwd="/no/such/folder")

    async def test_streaming_freeze_and_files(self):
        async with await cgrove.start_async(["cat"], stdin=PIPE, stdout=PIPE) as cat:
            await cat.freeze()
            self.assertIn("frozen 1", await cat.get("cgroup.events"))
            await cat.thaw()
            await cat.set("pids.max", 7)
            self.assertEqual(await cat.get("pids.max"), "7\n")
            cat.stdin.write(b"word\n")
            self.assertEqual(await cat.stdout.readline(), b"word\n")
            cat.stdin.close()
            report = await cat.wait()
            self.assertEqual((report.describe(), report.name), ("exited 0", cat.name))

    async def test_leaving_the_block_waits(self):
        line = "head -c 1000000 /dev/zero; cat"
        async with await cgrove.start_async(shell(line), stdin=PIPE, stdout=PIPE) as process:
            pass
        self.assertTrue((await process.wait()).ok)

    async def test_terminate(self):
        line = "trap 'exit 9' TERM; echo ready; while :; do sleep 1000 & wait; done"
        async with await cgrove.start_async(shell(line), stdout=PIPE) as process:
            await process.stdout.readline()
            process.terminate()
            self.assertEqual((await process.wait()).exit.code, 9)

    async def test_cancelling_a_run_leaves_nothing(self):
        # Also with more output than anybody takes.
        for first in ("", "head -c 1000000 /dev/zero >&2; "):
            with Pipe() as pipe:
                line = f"{first}exec >&{pipe.write}; {LEAVES_ONE}"
                task = asyncio.ensure_future(
                    cgrove.run_async(shell(line), pass_fds=[pipe.write], stderr=PIPE)
                )
                pipe.ends_with(task)
                left = self.watch(await pipe.line())
                self.assertEqual(await pipe.line(), b"ready\n")
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await asyncio.wait_for(task, PATIENCE)
                self.assert_gone(left)

    async def test_cancelling_at_any_time_leaves_nothing(self):
        for after in [0, 0, 0.001, 0.002, 0.003, 0.005, 0.008, 0.013]:
            with Pipe() as pipe:
                task = asyncio.ensure_future(
                    cgrove.run_async(["sleep", "1000"], pass_fds=[pipe.write], timeout=AT_MOST)
                )
                pipe.ends_with(task)
                await asyncio.sleep(after)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await asyncio.wait_for(task, PATIENCE)
                # It ends when nobody has it any more.
                self.assertEqual(await pipe.line(), b"")

    async def test_unread_output_does_not_hold_a_kill_up(self):
        process = await cgrove.start_async(["yes"], stdout=PIPE, timeout=AT_MOST)
        await process.stdout.readline()
        await asyncio.wait_for(process.kill(), PATIENCE)
        self.assertEqual((await process.wait()).exit.signal, signal.SIGKILL)

    async def test_an_exception_leaves_nothing(self):
        with self.assertRaises(ZeroDivisionError):
            async with await cgrove.start_async(shell(LEAVES_ONE), stdout=PIPE) as process:
                left = self.watch(await process.stdout.readline())
                raise ZeroDivisionError
        self.assert_gone(left)


if __name__ == "__main__":
    unittest.main()
