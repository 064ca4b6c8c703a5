"""The same under asyncio; cancelling kills."""

import asyncio
import os
import signal
import subprocess
import unittest

import cgrove

from .kit import LEAVES_ONE, PATIENCE, Case, shell

PIPE = subprocess.PIPE


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
        read, write = os.pipe()
        line = f"exec >&{write}; {LEAVES_ONE}"
        # Also with more output than anybody takes.
        for line in (line, f"head -c 1000000 /dev/zero >&2; {line}"):
            task = asyncio.ensure_future(
                cgrove.run_async(shell(line), pass_fds=[write], stderr=PIPE)
            )
            said = os.fdopen(os.dup(read), "rb", buffering=0)
            with said:
                loop = asyncio.get_running_loop()
                lines = b""
                while not lines.endswith(b"ready\n"):
                    lines += await asyncio.wait_for(
                        loop.run_in_executor(None, said.read, 100), PATIENCE
                    )
            left = self.watch(lines.split()[0])
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await asyncio.wait_for(task, PATIENCE)
            self.assert_gone(left)
        os.close(read)
        os.close(write)

    async def test_cancelling_at_any_time_leaves_nothing(self):
        for after in [0, 0, 0.001, 0.002, 0.003, 0.005, 0.008, 0.013]:
            read, write = os.pipe()
            task = asyncio.ensure_future(cgrove.run_async(["sleep", "1000"], pass_fds=[write]))
            os.set_blocking(read, False)
            await asyncio.sleep(after)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await asyncio.wait_for(task, PATIENCE)
            os.close(write)
            # The pipe ends when nobody has it any more.
            ended = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()
            loop.add_reader(read, lambda ended=ended: ended.done() or ended.set_result(None))
            await asyncio.wait_for(ended, PATIENCE)
            loop.remove_reader(read)
            self.assertEqual(os.read(read, 1), b"")
            os.close(read)

    async def test_unread_output_does_not_hold_a_kill_up(self):
        line = "yes"
        process = await cgrove.start_async([line], stdout=PIPE)
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
