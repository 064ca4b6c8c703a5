"""What the tests share: the command lines they run, and how they see that nothing stays."""

import os
import select
import signal
import unittest

PATIENCE = 60
"""Seconds that nothing here takes, on the slowest machine."""

AT_MOST = 2 * PATIENCE
"""The timeout of runs that a test is to end earlier, for the day when it fails."""

LEAVES_ONE = "setsid sleep 1000 & echo $!; echo ready; wait"
"""Says the pid of a process that no process group reaches, and waits."""


def shell(line):
    return ["sh", "-c", line]


class Watched:
    """A process, by a descriptor that no later process can be confused with."""

    def __init__(self, pid):
        self.fd = os.pidfd_open(int(pid))

    def ended(self, within=PATIENCE):
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(within * 1000))

    def close(self):
        """A test that failed leaves nothing either."""
        if not self.ended(within=0):
            signal.pidfd_send_signal(self.fd, signal.SIGKILL)
        os.close(self.fd)


class Case(unittest.TestCase):
    def watch(self, pid):
        watched = Watched(pid)
        self.addCleanup(watched.close)
        return watched

    def assert_gone(self, watched):
        """By now, and not soon."""
        self.assertTrue(watched.ended(within=0), "a process is left")

    def assert_one_line(self, error):
        self.assertEqual(len(str(error).splitlines()), 1, error)
