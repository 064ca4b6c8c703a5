"""Functions that are told what happens."""

import asyncio

import cgrove

from .kit import AT_MOST, Case, shell


class Events(Case):
    def assert_told(self, told, name):
        kinds = [event["event"] for event in told]
        self.assertEqual(kinds, ["started", "exec", "ended"])
        self.assertEqual({event["group"] for event in told}, {f"/{name}"})
        self.assertEqual((told[-1]["code"], told[-1]["signal"]), (3, None))

    def test_a_function_is_told_all_before_run_returns(self):
        told = []
        result = cgrove.run(shell("exit 3"), events=told.append, timeout=AT_MOST)
        self.assert_told(told, result.report.name)

    def test_so_it_is_under_asyncio_in_its_own_thread(self):
        told = []

        async def run():
            loop = asyncio.get_running_loop()

            def tell(event):
                self.assertIs(asyncio.get_running_loop(), loop)
                told.append(event)

            return await cgrove.run_async(shell("exit 3"), events=tell, timeout=AT_MOST)

        self.assert_told(told, asyncio.run(run()).report.name)

    def test_it_is_told_while_the_run_goes_on(self):
        limits = []
        process = None

        def tell(event):
            if event["event"] == "set":
                limits.append(event["value"])
                process.terminate()

        with cgrove.start(["sleep", "1000"], events=tell, timeout=AT_MOST) as process:
            process.set("pids.max", 7)
            process.wait()
        self.assertEqual(limits, ["7"])

    def test_a_run_that_does_not_start_tells_nothing(self):
        told = []
        with self.assertRaises(cgrove.CgroveError):
            cgrove.run(["true"], events=told.append, pids_max="many", capture_output=True)
        self.assertEqual(told, [])
