"""Every command: where it lives and its one line of help, so that `--help` loads none of them."""

from __future__ import annotations

__all__ = ["COMMANDS"]

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("crossdock.demo.command:demo", "Move files off a demo SFTP server, and prove that they arrived."),
    "ls": ("crossdock.cli.look:ls", "List a folder."),
    "cat": ("crossdock.cli.look:cat", "Write files to standard output."),
    "stat": ("crossdock.cli.look:stat", "Show what an endpoint says about a name."),
    "cp": ("crossdock.cli.cp:cp", "Copy files, each with a receipt."),
    "rm": ("crossdock.cli.change:rm", "Remove files, or folders with all that is in them."),
    "mkdir": ("crossdock.cli.change:mkdir", "Make folders."),
    "sync": ("crossdock.cli.sync:sync", "Bring what is new or changed from one folder to another."),
    "run": ("crossdock.cli.run:run", "Run the flows of the configuration, once or until stopped."),
    "plan": ("crossdock.cli.plan:plan", "Show what a run would move, why and at what cost; save it."),
    "apply": ("crossdock.cli.plan:apply", "Carry out a saved plan, and nothing that drifted since."),
    "where": ("crossdock.cli.where:where", "Tell whether a file came, and where it is now."),
    "explain": ("crossdock.cli.explain:explain", "Explain what a flow does with one file, and why."),
    "transfers": (
        "crossdock.cli.transfers:transfers",
        "List, show, retry, cancel, export or prune the ledger's transfers.",
    ),
    "late": ("crossdock.cli.late:late", "Tell which flows are late: expected files have not come."),
    "doctor": ("crossdock.cli.doctor:doctor", "Connect to an endpoint, probe what it can do, and say what to mend."),
    "trust": ("crossdock.cli.trust:trust", "Show the host keys that an SSH server offers, to pin them."),
    "check": ("crossdock.cli.check:check", "Check the configuration and report every mistake in it."),
    "route": ("crossdock.cli.check:route", "Show which rule of a flow takes a name, and where it goes."),
    "schema": ("crossdock.cli.check:schema", "Write the JSON Schema of the configuration, for editors."),
}
