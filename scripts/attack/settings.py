#!/usr/bin/env python3
"""Sets every number among the settings of some methods to a value that makes no sense.

    scripts/attack/settings.py target/release/mim [--tries N] [--quick]

Each number that `mim pretrain --print-config` shows becomes -1, 0, nan, inf, 1e18, 2^63-1 and more, under a limit of memory and of time. The
program must work, or end with an error; `--tries` is the number of values, the worst of them first.
"""

import tomllib

from trial import METHODS, Trials, config, images, run

VALUES = ("9223372036854775807", "1e18", "inf", "-1", "0", "nan", "1000000000", "-inf", "1e308", "0.5", "65537", "-9223372036854775808", "1e-320")
MEMORY, SECONDS = 6 << 30, 120


def toml(value):
    """A value as TOML writes it in a line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


class Raw:
    """A number as text: not all can be written back."""

    def __init__(self, text):
        self.text = text


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def changed(value, raw):
    """The copies of a list in which one number is another."""
    if is_number(value):
        yield raw
    elif isinstance(value, list):
        for index, each in enumerate(value):
            for new in changed(each, raw):
                yield value[:index] + [new] + value[index + 1 :]
    elif isinstance(value, dict):
        for key, each in value.items():
            for new in changed(each, raw):
                yield {**value, key: new}


def leaves(table, path=()):
    """The keys of all numbers, and of all lists that hold some."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        elif any(True for _ in changed(value, Raw("0"))):
            yield ".".join((*path, key)), value


def main():
    trials = Trials(__doc__, tries=len(VALUES), quick=2)
    images(trials.folder / "images")
    for method in METHODS:
        file = config(trials.folder, method, epochs=1)
        base = [trials.mim, "pretrain", "--config", file, "--threads", "1"]
        shown = run([*base, "--print-config"])
        settings = list(leaves(tomllib.loads(shown.out)))
        if not settings:
            raise SystemExit(f"error: no settings of {method}: {shown.err}")
        for key, value in settings:
            if not trials.wants(key):
                continue
            for text in VALUES[: trials.tries]:
                for new in changed(value, Raw(text)):
                    setting = f"{key}={toml(new)}"
                    outcome = run([*base, "--dry-run", "--set", setting], SECONDS, MEMORY, cwd=trials.folder)
                    trials.note(f"{method} {text}", "error" if outcome.code else "works", outcome.fault and f"{setting}: {outcome.fault}")
    trials.end()


if __name__ == "__main__":
    main()
