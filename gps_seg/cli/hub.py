"""Commands around the Hugging Face Hub; heavy imports happen inside them."""

from __future__ import annotations

from typing import Annotated

import typer

from gps_seg.cli.options import RunFolder


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("push")(push)


def push(
    run: RunFolder,
    name: Annotated[str, typer.Argument(help="Of the repository; it is made if it is not there.", metavar="USER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Nobody else may see it.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to put it on; default: main.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would leave, and send nothing.")] = False,
) -> None:
    """Send a run to the Hugging Face Hub: what trained, its settings, its card. Each file is named before it leaves."""
    from gps_seg.commands.hub.push import Destination
    from gps_seg.commands.hub.push import push as send

    send(run, Destination(name, revision, private), typer.echo, dry=dry_run)
