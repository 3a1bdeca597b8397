#!/usr/bin/env python3
"""Damages the files of a run, then resumes it and lets every command read it.

    scripts/attack/damage.py target/release/mim [--tries N] [--quick]

A command must end with an error, or do what it does with a whole run. Where an older whole checkpoint lies beside a damaged one, it is used,
and the damaged one is named. Settings and numbers of `state.json` are changed too, without checksums that could tell.
"""

import json
import shutil

from trial import METHODS, Trials, config, content, images, last, log, run

EPOCHS = 3
# The newest checkpoint of the run that is damaged, and the one before.
NEWEST, OLDER = "step-4", "step-2"
# What a run needs no checksum of, since it only tells of the past: a change of a letter cannot be seen.
TOLD = ("log.jsonl", "loss.svg", "events.", "report.html", "reconstruction.png", ".lock")


def bits(random, data, count):
    data = bytearray(data)
    for _ in range(count):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def zeros(random, data):
    start = random.randrange(max(1, len(data) - 4096))
    return data[:start] + bytes(min(4096, len(data) - start)) + data[start + 4096 :]


KINDS = {
    "a bit": lambda random, data: bits(random, data, 1),
    "20 bits": lambda random, data: bits(random, data, 20),
    "cut": lambda random, data: data[: random.randrange(len(data))],
    "4 KB of zeros": zeros,
    "empty": lambda random, data: b"",
    "gone": lambda random, data: None,
    "junk": lambda random, data: random.randbytes(random.choice((7, 100, len(data)))),
    "longer": lambda random, data: data + random.randbytes(16),
}
NUMBERS = (-1, 0, 1, 2, 3, 7, 2**31, 2**63 - 1, 2**64 - 1, 0.5, 1e300)


class Attack:
    def __init__(self, trials, method):
        self.trials, self.method = trials, method
        self.config = config(trials.folder, method, EPOCHS, keep=3)
        self.whole = trials.folder / f"{method}-whole"
        done = run(self.command("pretrain", self.whole))
        if done.code != 0:
            raise SystemExit(f"error: an undisturbed run of {method} fails: {done.err}")
        # As a kill after the second epoch leaves it.
        self.part = trials.folder / f"{method}-part"
        shutil.copytree(self.whole, self.part)
        shutil.rmtree(self.part / "checkpoints" / last(self.part))
        for name in ("summary.json", "report.html", "reconstruction.png"):
            (self.part / name).unlink(missing_ok=True)
        kept = (self.part / "log.jsonl").read_text().splitlines(keepends=True)[:2]
        (self.part / "log.jsonl").write_text("".join(kept))
        self.right = {name: self.read(name, self.part / "checkpoints" / NEWEST) for name in self.readers()}
        self.older = {name: self.read(name, self.part / "checkpoints" / OLDER) for name in self.readers()}

    def command(self, name, folder, *more):
        command = [self.trials.mim, name, "--threads", "1"]
        return command + ["--config", self.config, "--output-dir", folder, *more]

    def readers(self):
        """Commands that read a run."""
        names = ["info", "info --verify", "eval knn", "features", "visualize", "export"]
        return [name for name in names if name != "visualize" or self.method in ("mae", "bootmae", "cmae")]

    def read(self, name, run_or_checkpoint):
        """What a command does with a run: the outcome, and what it prints or writes."""
        out = self.trials.folder / "out"
        if out.is_dir():
            shutil.rmtree(out)
        out.mkdir()
        checkpoint = ["--checkpoint", run_or_checkpoint]
        command = {
            "info": ["info", run_or_checkpoint],
            "info --verify": ["info", "--verify", run_or_checkpoint],
            "eval knn": ["eval", "knn", *checkpoint, "--threads", "1"],
            "features": ["features", *checkpoint, "--threads", "1", "--output", out / "f.npy"],
            "visualize": ["visualize", *checkpoint, "--images", self.trials.folder / "images", "--output", out / "v.png"],
            "export": ["export", *checkpoint, "--format", "mae", "--output", out / "model"],
        }[name]
        outcome = run([self.trials.mim, *command], seconds=60)
        # The lines of paths differ, and how long something took.
        said = [line for line in outcome.out.splitlines() if "step-" not in line and "/" not in line and " s" not in line]
        return outcome, content(out) or said

    def damaged(self):
        """A damaged copy: its folder, the kind of damage and the file."""
        folder = self.trials.folder / "run"
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(self.part, folder)
        random = self.trials.random
        if self.trials.single:
            shutil.rmtree(folder / "checkpoints" / OLDER)
        files = [name for name in content(folder) if OLDER not in name]
        # Files of the checkpoint as often as all others.
        files = [name for name in files if (NEWEST in name) == (random.random() < 0.7)] or files
        name, kind = random.choice(files), random.choice(list(KINDS))
        path = folder / name
        data = path.read_bytes()
        changed = KINDS[kind](random, data) if data else b"junk"
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(changed)
        return folder, kind, name, changed == data

    def attack(self):
        folder, kind, name, same = self.damaged()
        kept = "one checkpoint" if self.trials.single else "two checkpoints"
        where = f"{kind} of {name}, {kept}"
        for reader in self.readers():
            self.trials.note(f"{self.method}: {reader}", *self.reads(reader, folder, where, name))
        outcome = run(self.command("pretrain", folder, "--resume", "auto"))
        self.trials.note(f"{self.method}: resume", *self.resumed(folder, outcome, where, name, same))

    def reads(self, reader, folder, where, name):
        outcome, found = self.read(reader, folder)
        if outcome.fault:
            return "", f"{where}: {outcome.fault}"
        if outcome.code:
            # One who reads weights takes the older checkpoint; `--verify` shall say that one is damaged.
            helpless = NEWEST in name and not self.trials.single and reader != "info --verify"
            return "error", f"{where}: the older checkpoint is not used: {outcome.last}" if helpless else None
        if reader == "info --verify":
            return "whole", f"{where}: it is called whole" if NEWEST in name and self.changes(folder, name) else None
        if found == self.right[reader][1]:
            return "right", None
        if found == self.older[reader][1] and NEWEST in outcome.err:
            return "older, named", None
        return "", f"{where}: other numbers: {outcome.last}"

    def changes(self, folder, name):
        path = folder / name
        return not path.exists() or path.read_bytes() != (self.part / name).read_bytes()

    def resumed(self, folder, outcome, where, name, same):
        if outcome.fault:
            return "", f"{where}: {outcome.fault}"
        in_newest = NEWEST in name
        if outcome.code:
            helpless = in_newest and not self.trials.single
            return "error", f"{where}: the older checkpoint is not used: {outcome.last}" if helpless else None
        final, wanted = (content(path / "checkpoints" / last(self.whole)) for path in (folder, self.whole))
        if final != wanted:
            return "", f"{where}: another final checkpoint, exit 0"
        if not name.startswith(TOLD) and log(folder) != log(self.whole):
            return "", f"{where}: another log, exit 0"
        named = NEWEST in outcome.err or "without checksums" in outcome.err
        if in_newest and not same and not named:
            return "", f"{where}: not named, exit 0"
        return ("same, named" if in_newest else "same"), None

    def numbers(self):
        """A number of `state.json` is another one, and there are no checksums."""
        folder = self.trials.folder / "run"
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(self.part, folder)
        shutil.rmtree(folder / "checkpoints" / OLDER)
        path = folder / "checkpoints" / NEWEST / "state.json"
        state = json.loads(path.read_text())
        del state["files"], state["crc32"]
        leaves = list(numbers(state))
        table, key = self.trials.random.choice(leaves)
        before = table[key]
        table[key] = self.trials.random.choice([number for number in NUMBERS if number != before])
        path.write_text(json.dumps(state))
        outcome = run(self.command("pretrain", folder, "--resume", "auto"))
        where = f"{key} = {before} -> {table[key]}"
        finding = outcome.fault
        if not finding and outcome.code == 0:
            final, wanted = (content(each / "checkpoints" / last(self.whole)) for each in (folder, self.whole))
            # It holds its settings.
            for files in (final, wanted):
                files.pop("state.json")
            finding = final != wanted and "another final checkpoint, exit 0"
        self.trials.note(f"{self.method}: numbers of state.json", "error" if outcome.code else "same", finding and f"{where}: {finding}")


def numbers(table):
    """Every number in tables and lists, as what holds it and its key."""
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        if isinstance(value, (dict, list)):
            yield from numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield table, key


def main():
    trials = Trials(__doc__, tries=60, quick=6)
    images(trials.folder / "images")
    for method in METHODS:
        attack = Attack(trials, method)
        for number in range(trials.tries):
            trials.single = number % 3 == 0
            attack.attack()
            attack.numbers()
    trials.end()


if __name__ == "__main__":
    main()
