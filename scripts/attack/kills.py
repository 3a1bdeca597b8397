#!/usr/bin/env python3
"""Ends runs at random times, by kill -9 and by signals, and resumes them until they are finished.

    scripts/attack/kills.py target/release/mim [--tries N] [--quick]

The final checkpoints, the log and the curve must be those of a run that nobody disturbed, and nothing else may be left behind.
"""

import signal
import shutil
import time

from trial import METHODS, Trials, config, content, images, last, log, run

EPOCHS, KEEP = 4, 2
# What is sent while a run trains, and the exit statuses that are right.
SIGNALS = {
    "SIGTERM": ([signal.SIGTERM], {143}),
    "SIGINT": ([signal.SIGINT], {130}),
    "two SIGINTs": ([signal.SIGINT, signal.SIGINT], {130}),
    "SIGHUP": ([signal.SIGHUP], {129}),
    "SIGPIPE": ([signal.SIGPIPE], {0, 141}),
    "SIGSTOP, SIGCONT": ([signal.SIGSTOP, signal.SIGCONT], {0}),
}


class Attack:
    def __init__(self, trials, method):
        self.trials, self.method = trials, method
        self.config = config(trials.folder, method, EPOCHS, KEEP)
        self.whole = trials.folder / f"{method}-whole"
        start = time.monotonic()
        done = run(self.command(self.whole))
        if done.code != 0:
            raise SystemExit(f"error: an undisturbed run of {method} fails: {done.err}")
        self.seconds = time.monotonic() - start

    def command(self, folder, *more):
        return [self.trials.mim, "pretrain", "--config", self.config, "--threads", "1", "--output-dir", folder, *more]

    def send(self, process, signals):
        for number in signals:
            time.sleep(self.trials.random.uniform(0, self.seconds if number == signals[0] else 0.05))
            if process.returncode is None:
                process.send_signal(number)

    def disturbed(self, folder, signals, more=()):
        return run(self.command(folder, *more), during=lambda process: self.send(process, signals))

    def check(self, kind, folder, outcome):
        """Resumes without disturbance, and compares."""
        done = run(self.command(folder, "--resume", "auto"))
        finding = done.fault or (done.code and f"it does not resume: {done.last}")
        if not finding:
            finding = self.difference(folder)
        self.trials.note(f"{self.method}: {kind}", str(outcome), finding)
        shutil.rmtree(folder)

    def difference(self, folder):
        if log(folder) != log(self.whole):
            return "another log"
        # An older checkpoint may be the one of a signal, in the middle of an epoch.
        newest = last(self.whole)
        found = sorted(path.name for path in (folder / "checkpoints").iterdir())
        if len(found) != KEEP or last(folder) != newest:
            return f"the checkpoints are {', '.join(found)}"
        final, wanted = content(folder / "checkpoints" / newest), content(self.whole / "checkpoints" / newest)
        if final != wanted:
            names = [name for name in final.keys() | wanted.keys() if final.get(name) != wanted.get(name)]
            return f"another final checkpoint: {', '.join(sorted(names))}"
        mine, whole = outside(folder), outside(self.whole)
        for name in whole:
            # The summary and the page hold seconds, and the events times.
            if name not in mine or mine[name] != whole[name] and name in ("loss.svg", "config.toml", "reconstruction.png"):
                return f"another {name}, or none"
        # A process that resumes adds an event file, as TensorBoard wants it.
        left = [name for name in mine.keys() - whole.keys() if not name.startswith("events.")]
        return f"left behind: {', '.join(left)}" if left else None

    def kills(self):
        folder = self.trials.folder / "run"
        more = ()
        for _ in range(self.trials.random.randint(1, 3)):
            outcome = self.disturbed(folder, [signal.SIGKILL], more)
            if outcome.code not in (0, None):
                finding = outcome.fault or f"it does not resume: {outcome.last}"
                self.trials.note(f"{self.method}: kill -9", "", finding)
                shutil.rmtree(folder, ignore_errors=True)
                return
            more = ("--resume", "auto")
        self.check("kill -9", folder, outcome)

    def signal(self, kind):
        folder = self.trials.folder / "run"
        signals, statuses = SIGNALS[kind]
        outcome = self.disturbed(folder, signals)
        ended = outcome.code if outcome.signal is None else 128 + outcome.signal
        # Before it listens, a signal ends it as the system does; after its end nothing is sent.
        if outcome.late or ended not in statuses | {0, 128 + signals[0]} or "panicked" in outcome.err:
            self.trials.note(f"{self.method}: {kind}", "", f"{outcome}: {outcome.fault or outcome.last}")
            shutil.rmtree(folder, ignore_errors=True)
            return
        if not folder.exists():
            self.trials.note(f"{self.method}: {kind}", "before the run")
            return
        self.check(kind, folder, outcome)


def outside(folder):
    """What a run has beside its checkpoints."""
    return {name: data for name, data in content(folder).items() if not name.startswith("checkpoints/")}


def main():
    trials = Trials(__doc__, tries=40, quick=3)
    images(trials.folder / "images")
    for method in METHODS:
        attack = Attack(trials, method)
        if trials.wants("kill -9"):
            for _ in range(trials.tries):
                attack.kills()
        for kind in filter(trials.wants, SIGNALS):
            for _ in range(max(1, trials.tries // 8)):
                attack.signal(kind)
    trials.end()


if __name__ == "__main__":
    main()
