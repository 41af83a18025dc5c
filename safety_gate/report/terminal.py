"""The report on a terminal: 80 columns are enough, and so is a pipe without colours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from rich.console import Console
from rich.table import Table
from rich.text import Text

from safety_gate.records import (
    AdapterScore,
    Blocked,
    Drift,
    Finding,
    Passed,
    Report,
    Undecided,
    Verdict,
)
from safety_gate.report.behaviour import spoken
from safety_gate.report.heatmap import HeatMap, Shade, Stack, heat_map
from safety_gate.report.inert import Name, Prose, plain_prose, shown
from safety_gate.report.summary import (
    WHOLE_ADAPTER,
    Group,
    Reason,
    Summary,
    Where,
    facts,
    figure,
    percent,
    place_of,
    summarise,
)
from safety_gate.report.tables import GLOSSARY, shared_prefix, short_revision, worst_modules

MOST_GROUPS = 8  # kinds of findings
MOST_PER_GROUP = 3  # places of each; the first screen matters most
LONGEST_LABEL = 16  # of a projection in the heat map; longer names are cut in the middle
ANSWER_INDENT = 10  # beside "Why", "Next" and "Evidence"
TICK = 5  # layers between two numbers above the heat map
NUMBERS_WIDTH = 54  # of the seven figures beside a module's name

# Characters tell as much as colours: for pipes, and for eyes that see no colours.
_PAINT: dict[Shade, tuple[str, str]] = {
    Shade.NOT_SCORED: ("?", "bold white on black"),
    Shade.MUCH: ("X", "bold white on red"),
    Shade.SOME: ("x", "black on bright_red"),
    Shade.LITTLE: ("+", "black on yellow"),
    Shade.NONE: (".", "black on green"),
    Shade.FORWARD: ("-", "white on blue"),
    Shade.UNCHANGED: ("_", "black on white"),
}


def render_text(report: Report, console: Console) -> None:
    """Print the report; no colours or control characters where the console has none."""
    page = _Page(console=console)
    summary = summarise(report)
    blocks: tuple[Sequence[Text | Table], ...] = (
        page.verdict(report),
        page.answers(summary),
        page.behaviour(report),
        page.findings(summary),
        page.heat(heat_map(report)),
        page.worst(report),
        page.provenance(report),
    )
    for block in filter(None, blocks):
        for line in block:
            console.print(line, markup=False, emoji=False, highlight=False)
        console.print()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """Turns facts into lines; every text goes through ``words``."""

    console: Console

    def words(self, *parts: Where | str) -> Text:
        """Join our own words and strangers' names; a bare string is a mark of ours."""
        ascii_only = not self.console.encoding.startswith("utf")
        text = Text()
        for part in parts:
            match part:
                case Prose(text=own):
                    text.append(plain_prose(own, ascii_only=ascii_only))
                case Name(text=name):
                    text.append(shown(name), style="cyan")
                case str(mark):
                    text.append(mark)
                case _:
                    assert_never(part)
        return text

    def wrapped(self, text: Text, *, indent: int = 0) -> list[Text]:
        """Break a text into lines that fit; no blanks at their ends, unlike rich's own padding."""
        room = max(10, self.console.width - indent)
        lines = text.wrap(self.console, room, overflow="fold")
        for line in lines:
            line.rstrip()
        return [Text(" " * indent).append_text(line) for line in lines]

    def labelled(self, label: str, texts: Sequence[Text]) -> list[Text]:
        """Put a bold label beside a few texts."""
        lines = [line for text in texts for line in self.wrapped(text, indent=ANSWER_INDENT)]
        first = Text(f"{label:{ANSWER_INDENT}}", style="bold")
        lines[0] = Text.assemble(first, lines[0][ANSWER_INDENT:])
        return lines

    def verdict(self, report: Report) -> list[Text]:
        """Show the verdict first."""
        banner = Text(f" {report.verdict.word.upper()} ", style=_banner(report.verdict))
        line = Text.assemble(banner, " Safety Gate")
        if report.adapter is not None:
            line.append_text(self.words(": adapter ", Name(report.adapter.name)))
        return self.wrapped(line)

    def answers(self, summary: Summary) -> list[Text]:
        """Show why, what to do, and what the verdict rests on."""
        reasons = [self._reason(reason) for reason in summary.reasons]
        if summary.more_reasons:
            reasons.append(Text(f"And {summary.more_reasons:,} more, listed below."))
        steps = [self.words(f"{n}. ", step) for n, step in enumerate(summary.steps, 1)]
        if len(steps) == 1:
            steps = [self.words(summary.steps[0])]
        if summary.more_steps:
            steps.append(Text(f"And {summary.more_steps:,} more hints below."))
        return [
            *self.labelled("Why", reasons),
            *self.labelled("Next", steps),
            *self.labelled("Evidence", [self.words(sentence) for sentence in summary.evidence]),
        ]

    def behaviour(self, report: Report) -> list[Text | Table]:
        """Show what the model said, aligned beside it with the adapter."""
        found = spoken(report.behaviour)
        if found is None:
            return []
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("What the model says", overflow="fold")
        for name in found.variants:
            table.add_column(self.words(name), justify="right", overflow="fold")
        for row in found.rows:
            table.add_row(self.words(row.what), *(self.words(cell) for cell in row.cells))
        lines: list[Text | Table] = [table]
        if found.lost:
            text = self.words("Refusals lost by category: ")
            for n, one in enumerate(found.lost):
                text.append_text(self.words(", " if n else "", one.category))
                text.append(f" {one.lost} of {one.of}")
            lines += self.wrapped(text)
        for answer in found.quoted:
            parts = (answer.prompt, ", ", answer.variant, ", ", answer.reply, ": ", answer.text)
            label = self.words(*parts)
            lines += self.wrapped(label, indent=2)
        return lines

    def _reason(self, reason: Reason) -> Text:
        text = self.words(reason.what)
        for place in reason.where:
            text.append_text(self.words(" (", place, ")"))
        return text.append(".")

    def findings(self, summary: Summary) -> list[Text]:
        """Show the findings, gravest first."""
        if not summary.groups:
            return []
        lines = [Text("Findings", style="bold")]
        for group in summary.groups[:MOST_GROUPS]:
            lines += self._group(group, summary)
        if hidden := len(summary.groups[MOST_GROUPS:]):
            lines.append(Text(f"And {hidden:,} more kinds of findings, all in the JSON report."))
        return lines

    def _group(self, group: Group, summary: Summary) -> Iterator[Text]:
        head = self.words(group.word, " ", Name(group.rule), ": ", group.what)
        head.stylize("bold", 0, len(group.word.text))
        if len(group.findings) > 1:
            head.append_text(self.words(" (", group.where, ")"))
        yield from self.wrapped(head.append("."))
        if group.expected is not None:
            yield from self.wrapped(self.words("Expected: ", group.expected, "."), indent=2)
        for finding in group.findings[:MOST_PER_GROUP]:
            yield from self.wrapped(self._finding(finding, group), indent=2)
        if hidden := len(group.findings[MOST_PER_GROUP:]):
            yield Text(f"  and {hidden:,} more, all in the JSON report")
        if not group.waived and group.hint not in summary.steps:
            yield from self.wrapped(self.words("Next: ", group.hint), indent=2)

    def _finding(self, finding: Finding, group: Group) -> Text:
        kind = "" if finding.place.name == WHOLE_ADAPTER else f"{finding.place.kind} "
        line = self.words(kind, place_of(finding))
        for index, (label, value) in enumerate(facts(finding, group)):
            line.append_text(self.words(", " if index else ": ", label, " ", value))
        return line

    def heat(self, heat: HeatMap) -> list[Text]:
        """Show the grid, a character and a colour per square."""
        if not (heat.stacks or heat.others):
            return []
        lines = [Text("Share of the alignment step that each module takes back", style="bold")]
        for stack in heat.stacks:
            longest = max(len(shown(row.label, LONGEST_LABEL)) for row in stack.rows)
            for piece in stack.pieces(max(TICK, (self.console.width - longest - 1) // 2)):
                lines += self._piece(piece, longest)
        if heat.others:
            lines.append(Text("outside the layers"))
        for cell in heat.others:
            name = Name(shown(cell.module, self.console.width - 2))
            lines.append(_painted(cell.shade).append_text(Text(name.text, style="cyan")))
        if heat.hidden_rows:
            lines.append(Text(f"and {heat.hidden_rows:,} more rows, none of them worse"))
        return lines + self._legend()

    def _piece(self, stack: Stack, label_width: int) -> Iterator[Text]:
        folded = f", {stack.fold} to a column, the worst shows" if stack.fold > 1 else ""
        span = f", layers {stack.first} to {stack.last}{folded}"
        yield from self.wrapped(self.words(Name(stack.prefix), span))
        columns = len(stack.rows[0].cells)
        numbers = range(stack.first, stack.first + columns * stack.fold, TICK * stack.fold)
        ruler = "".join(f"{number:<{2 * TICK}}" for number in numbers)
        yield Text(f"{'':{label_width}} {ruler}".rstrip(), style="dim")
        for row in stack.rows:
            line = Text(f"{shown(row.label, LONGEST_LABEL):{label_width}} ")
            for cell in row.cells:
                line.append_text(_painted(cell.shade))
            line.rstrip()
            yield line

    def _legend(self) -> list[Text]:
        """Pack the legend into lines, never breaking within an entry."""
        lines = [Text()]
        for shade in Shade:
            entry = _painted(shade).append(shade.value)
            if len(lines[-1]) + len(entry) + 3 > self.console.width:
                lines.append(Text())
            lines[-1].append_text(Text("   " if lines[-1] else "").append_text(entry))
        return lines

    def worst(self, report: Report) -> list[Text | Table]:
        """Show the modules that take back most, and the whole adapter."""
        scores = worst_modules(report)
        if not scores:
            return []
        prefix = shared_prefix(report.modules)
        room = max(12, self.console.width - NUMBERS_WIDTH)
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
        table.add_column("module", no_wrap=True, max_width=room)
        for name in ("undone", "reversion", "cosine", "random", "z", "size", "residual"):
            table.add_column(name, justify="right", no_wrap=True)
        for score in scores:
            label = shown(score.module.removeprefix(prefix), room)
            table.add_row(Text(label, style="cyan"), *_figures(score.drift))
        head = Text("Worst modules", style="bold")
        if prefix:
            head = Text.assemble(head, self.words(", all in ", Name(prefix)))
        lines: list[Text | Table] = [*self.wrapped(head), table]
        if report.total is not None:
            table.add_row(Text("whole adapter", style="bold"), *_figures(report.total.drift))
            lines += self.wrapped(_coverage(report.total))
        return lines + self.wrapped(self.words(Prose(GLOSSARY)))

    def provenance(self, report: Report) -> list[Text]:
        """Show in one sentence what was judged against what; digests are in the other formats."""
        parts: list[Where | str] = []
        for role, fact in (
            ("Adapter", report.adapter),
            ("base", report.base),
            ("aligned", report.aligned),
        ):
            parts += [f"{role} ", short_revision(fact) if fact else "not read", ", "]
        parts += ["policy ", Name(report.policy.name) if report.policy else "not read", "."]
        return self.wrapped(self.words(*parts))


def _coverage(total: AdapterScore) -> Text:
    covered = f"{percent(total.coverage)} of {total.changed_parameters:,} changed parameters"
    unchanged = len(total.unchanged_modules)
    more = f"; {unchanged:,} modules unchanged" if unchanged else ""
    return Text(f"{total.modules:,} modules scored, {covered}{more}.")


def _banner(verdict: Verdict) -> str:
    match verdict:
        case Passed():
            return "bold white on green"
        case Blocked():
            return "bold white on red"
        case Undecided():
            return "bold black on yellow"
        case _:
            assert_never(verdict)


def _painted(shade: Shade) -> Text:
    """Return one square, two characters wide."""
    mark, style = _PAINT[shade]
    return Text(f"{mark} ", style=style)


def _figures(drift: Drift) -> tuple[str, ...]:
    values = (
        drift.undone,
        drift.reversion,
        drift.cosine,
        drift.null_mean,
        drift.z,
        drift.size,
        drift.residual,
    )
    return tuple(map(figure, values))
