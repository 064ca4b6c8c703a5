"""`run` and `start`: streams as the caller says, the report apart from them, nothing left."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

import cgrove
from cgrove import _launch

from .kit import AT_MOST, LEAVES_ONE, PATIENCE, Case, shell


class Run(Case):
    def test_output_and_report_do_not_mix(self):
        result = cgrove.run(shell("cat; echo err >&2"), input="grüß", capture_output=True)
        self.assertEqual((result.out, result.err), ("grüß", "err\n"))
        self.assertEqual(result.returncode, 0)
        only_out = cgrove.run(["echo", b"\xff"], stdout=subprocess.PIPE)
        self.assertEqual((only_out.stdout, only_out.out), (b"\xff\n", "\ufffd\n"))
        self.assertIsNone(only_out.stderr)

    def test_a_run_ends_with_its_python_if_it_is_to(self):
        program = (
            "import cgrove, sys\n"
            "cgrove.run(['sh', '-c', sys.argv[1]], die_with_parent=True)\n"
        )
        host = subprocess.Popen(
            [sys.executable, "-c", program, LEAVES_ONE], stdout=subprocess.PIPE
        )
        with host:
            daemon = self.watch(host.stdout.readline())
            host.kill()
        self.assertTrue(daemon.ended())

    def test_much_output(self):
        result = cgrove.run(["head", "-c", "5000000", "/dev/zero"], capture_output=True)
        self.assertEqual(len(result.stdout), 5_000_000)

    def test_the_command_inherits_nothing_of_ours(self):
        line = "ls /proc/self/fd"
        bare = subprocess.run(shell(line), stdout=subprocess.PIPE).stdout
        self.assertEqual(cgrove.run(shell(line), stdout=subprocess.PIPE).stdout, bare)
        read, write = os.pipe()
        try:
            cgrove.run(shell(f"echo through >&{write}"), pass_fds=[write])
            self.assertEqual(os.read(read, 100), b"through\n")
        finally:
            os.close(read)
            os.close(write)

    def test_folder_and_environment(self):
        with tempfile.TemporaryDirectory() as folder:
            result = cgrove.run(
                shell("pwd; echo $WHO"), cwd=folder, env={"WHO": "me", "PATH": os.environ["PATH"]},
                capture_output=True,
            )
            self.assertEqual(result.out, f"{os.path.realpath(folder)}\nme\n")

    def test_failure_is_an_error_only_if_asked(self):
        self.assertFalse(cgrove.run(["false"]).ok)
        self.assertTrue(cgrove.run(["true"], check=True).ok)
        with self.assertRaisesRegex(cgrove.CommandFailed, "exited 1") as caught:
            cgrove.run(["false"], check=True)
        self.assertEqual(caught.exception.result.report.exit.code, 1)
        self.assert_one_line(caught.exception)
        # The command's own 125 is not cgrove's.
        self.assertEqual(cgrove.run(shell("exit 125")).report.exit.code, 125)

    def test_where_nothing_captures_the_line(self):
        script = (
            "import cgrove\n"
            "try: cgrove.run(['true'], pids_max=-1)\n"
            "except cgrove.CgroveError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.assertIn(b"standard error", done.stdout)
        self.assertTrue(done.stderr.startswith(b"cgrove: "), done.stderr)

    def test_a_daemon_does_not_hold_the_pipe(self):
        result = cgrove.run(shell("setsid sleep 1000 & echo $!"), capture_output=True)
        self.assertEqual(result.report.left_behind.killed, 1)
        self.assertFalse(os.path.exists(f"/proc/{result.out.strip()}/cmdline"))

    def test_a_temporary_file_where_memory_has_none(self):
        with tempfile.TemporaryDirectory() as folder, \
                mock.patch.object(tempfile, "tempdir", folder), \
                mock.patch.object(os, "memfd_create", side_effect=PermissionError):
            process = cgrove.start(["true"])
            self.assertEqual(len(os.listdir(folder)), 1)
            self.assertTrue(process.wait().ok)
            self.assertEqual(os.listdir(folder), [])

    def test_no_descriptor_stays(self):
        def once():
            cgrove.run(["true"], capture_output=True)
            with self.assertRaises(cgrove.CgroveError):
                cgrove.run(["true"], capture_output=True, pids_max=-1)
            with self.assertRaises(FileNotFoundError):
                cgrove.run(["true"], cwd="/no/such/folder")

        once()
        before = os.listdir("/proc/self/fd")
        once()
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_threads_run_at_once(self):
        codes = {}

        def one(number):
            codes[number] = cgrove.run(shell(f"exit {number}")).returncode

        threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(codes, {n: n for n in range(8)})

    def test_an_interrupt_leaves_nothing(self):
        script = (
            "import cgrove, signal, subprocess, sys\n"
            "signal.signal(signal.SIGUSR1, signal.default_int_handler)\n"
            f"with cgrove.start(['sh', '-c', {LEAVES_ONE!r}], stdout=subprocess.PIPE) as it:\n"
            # Only now is it sure that Python knows of the child.
            "    for _ in range(2): print(it.stdout.readline().decode(), end='', flush=True)\n"
            "    it.communicate()\n"
        )
        python = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with python:
            left = self.watch(python.stdout.readline())
            self.assertEqual(python.stdout.readline(), b"ready\n")
            python.send_signal(signal.SIGUSR1)
            python.wait(PATIENCE)
            self.assert_gone(left)
            self.assertIn(b"KeyboardInterrupt", python.stderr.read())


class Start(Case):
    def test_words_back_and_forth(self):
        with cgrove.start(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
            for word in (b"one\n", b"two\n"):
                cat.stdin.write(word)
                cat.stdin.flush()
                self.assertEqual(cat.stdout.readline(), word)
            self.assertIsNone(cat.poll())
            cat.stdin.close()
            self.assertEqual(cat.wait(PATIENCE).describe(), "exited 0")
            self.assertIs(cat.poll(), cat.wait())

    def test_leaving_the_block_waits(self):
        with cgrove.start(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as cat:
            pass
        self.assertTrue(cat.poll().ok)

    def test_waiting_has_an_end(self):
        with cgrove.start(shell("read line; exit 4"), stdin=subprocess.PIPE) as process:
            with self.assertRaises(subprocess.TimeoutExpired):
                process.wait(0.01)
            self.assertEqual(process.communicate("go\n").returncode, 4)

    def test_freeze_thaw_and_files(self):
        line = "read line; echo $line"
        with cgrove.start(shell(line), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.freeze()
            self.assertIn("frozen 1", process.get("cgroup.events"))
            self.assertIsNone(process.poll())
            process.thaw()
            self.assertIn("frozen 0", process.get("cgroup.events"))
            self.assertEqual(process.get("pids.current"), "1\n")
            process.set("pids.max", 7)
            self.assertEqual(process.get("pids.max"), "7\n")
            with self.assertRaisesRegex(cgrove.CgroveError, "EINVAL") as caught:
                process.set("pids.max", "many")
            self.assert_one_line(caught.exception)
            self.assertEqual(process.communicate("word\n").out, "word\n")
        # A run that is over is not waited for.
        clock = mock.Mock(monotonic=time.monotonic, sleep=mock.Mock(side_effect=AssertionError))
        with mock.patch.object(_launch, "time", clock), \
                self.assertRaisesRegex(cgrove.CgroveError, "no such run"):
            process.freeze()

    def test_a_run_that_has_hardly_started_is_waited_for(self):
        with tempfile.TemporaryDirectory() as folder:
            # The run starts when somebody has asked for it in vain.
            os.mkfifo(f"{folder}/start")
            script = (
                f'cd {folder}; test "$1" = run && read line <start && exec {cgrove.find()} "$@"\n'
                f'{cgrove.find()} "$@"; status=$?\n'
                "test -p start && echo go >start && rm start\n"
                "exit $status\n"
            )
            binary = os.path.join(folder, "late")
            with open(binary, "w") as file:
                file.write(f"#!/bin/sh\n{script}")
            os.chmod(binary, 0o755)
            with cgrove.start(["cat"], stdin=subprocess.PIPE, binary=binary) as cat:
                self.assertEqual(cat.get("pids.current"), "1\n")

    def test_runs_are_asked_where_their_environment_has_them(self):
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "XDG_RUNTIME_DIR": folder}
            with cgrove.start(["cat"], stdin=subprocess.PIPE, env=env) as cat:
                self.assertEqual(cat.get("pids.current"), "1\n")

    def test_a_refusal_is_read_from_the_pipe(self):
        process = cgrove.start(["true"], pids_max=-1, stderr=subprocess.PIPE)
        for _ in range(2):
            with self.assertRaisesRegex(cgrove.CgroveError, "number"):
                process.wait(PATIENCE)
        process.stderr.close()

    def test_names(self):
        with cgrove.start(["cat"], stdin=subprocess.PIPE, name=f"a-{os.getpid()}") as cat:
            self.assertEqual(cat.name, f"a-{os.getpid()}")
        self.assertEqual(cat.wait().name, cat.name)
        with cgrove.start(["true"]) as process:
            self.assertEqual(process.wait().name, process.name)

    def test_kill_leaves_nothing(self):
        for freeze in (False, True):
            process = cgrove.start(shell("trap '' TERM; " + LEAVES_ONE), stdout=subprocess.PIPE)
            left = self.watch(process.stdout.readline())
            self.assertEqual(process.stdout.readline(), b"ready\n")
            if freeze:
                process.freeze()
            process.kill()
            self.assert_gone(left)
            self.assertEqual(process.wait().exit.signal, signal.SIGKILL)
            process.stdout.close()
            process.kill()

    def test_a_kill_that_comes_at_once(self):
        for _ in range(10):
            process = cgrove.start(["sleep", "1000"], timeout=AT_MOST)
            process.kill()
            self.assertEqual(process.wait().exit.signal, signal.SIGKILL)

    def test_an_exception_leaves_nothing(self):
        with self.assertRaises(ZeroDivisionError):
            with cgrove.start(shell(LEAVES_ONE), stdout=subprocess.PIPE) as process:
                left = self.watch(process.stdout.readline())
                raise ZeroDivisionError
        self.assert_gone(left)
        self.assertEqual(process.poll().exit.signal, signal.SIGKILL)

    def test_terminate_asks_the_command(self):
        line = "trap 'exit 9' TERM; echo ready; while :; do sleep 1000 & wait; done"
        with cgrove.start(shell(line), stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            process.terminate()
            self.assertEqual(process.wait(PATIENCE).exit.code, 9)

    def test_cgrove_itself_killed(self):
        process = cgrove.start(shell(LEAVES_ONE), stdout=subprocess.PIPE)
        with process.stdout:
            left = self.watch(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            for _ in range(2):
                with self.assertRaisesRegex(cgrove.CgroveError, "SIGKILL"):
                    process.wait(PATIENCE)
            self.assertTrue(left.ended(), "a process is left")


if __name__ == "__main__":
    unittest.main()
