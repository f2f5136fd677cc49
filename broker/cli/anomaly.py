"""`tasklease anomaly`: what was found and what was done about it, and what other parameters would find."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.anomaly.findings import DetectorName
from broker.cli.anomaly_operate import lift, mark, watch
from broker.cli.anomaly_story import pick, show_list, show_story
from broker.cli.anomaly_trail import parameters, replay, tune
from broker.cli.output import fail
from broker.cli.policy_trail import SinceOption, begin_of
from broker.cli.trail import ConfigOption, StoreOption, records_of
from broker.domain.findings import Mark
from broker.usecases.recorded_findings import FindingsOfTrail
from broker.usecases.tell_finding import tell

app = typer.Typer(help="Findings: look at them, and tune the detectors.", no_args_is_help=True)

FindingArgument = Annotated[str, typer.Argument(help="The finding: finding-...", metavar="FINDING_ID")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list")
def list_(
    config: ConfigOption = None,
    store: StoreOption = "",
    detector: Annotated[
        str, typer.Option(help="Only findings of this detector; `signal`: from outside.")
    ] = "",
    task: Annotated[str, typer.Option(help="Only findings in this task.")] = "",
    unmarked: Annotated[
        bool, typer.Option("--unmarked", help="Only those of which nobody has said anything.")
    ] = False,
    since: SinceOption = "",
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show what was found, oldest first, and what was done about it."""
    known = {*DetectorName, "signal"}
    if detector and detector not in known:
        fail(f"--detector {detector}: give one of {', '.join(sorted(known))}", code=2)
    begin = begin_of(since)
    found = [
        one
        for one in _findings(config, store).found.values()
        if (not detector or one.detector == detector)
        and (not task or one.task_id == task)
        and (not unmarked or one.mark is Mark.NONE)
        and (begin is None or one.at.timestamp() >= begin)
    ]
    show_list(found[-limit:], as_json=as_json)


@app.command()
def show(
    finding: FindingArgument,
    config: ConfigOption = None,
    store: StoreOption = "",
    as_json: JsonOption = False,
) -> None:
    """Tell the story of one finding: what its task did, what was expected, what happened, and what was done."""
    one = pick(_findings(config, store).found, finding)
    show_story(tell(one, records_of(config, store)), as_json=as_json)


app.command()(replay)
app.command()(tune)
app.command()(parameters)
app.command()(watch)
app.command()(mark)
app.command()(lift)


def _findings(config: ConfigOption, store: str) -> FindingsOfTrail:
    found = FindingsOfTrail()
    for record in records_of(config, store):
        found.take(record)
    return found
