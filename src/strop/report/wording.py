"""What the report says in sentences: the headline, what stands under it, the grounds."""

from __future__ import annotations

import math

from markupsafe import Markup

from strop.proof import ledger_alpha
from strop.records import Candidate, Claim, Interval, Result, Speedup
from strop.report.numbers import Score, TimeUnit, percent, ratio, ratio_bounds, significant, size

_WIDE = 1.25  # an interval whose ends differ by more: its middle would promise too much


def headline(result: Result, score: Score) -> str:
    """One sentence that a newcomer understands."""
    gain = _gain(result)
    if result.status == "improved":
        if result.claim is None:
            return f"{gain or 'A better version was found'}."
        if result.claim.kind == "equivalent":
            return f"{gain or 'A better version'}, with the same answers."
        return f"{gain or 'A better version'}, {_promise(result.claim, score)}."
    start = "Nothing better could be claimed"
    if result.delivered.recipe.id == result.original.recipe.id:
        return f"{start}: you get your own model back, unchanged."
    if gain:
        gain = gain[0].lower() + gain[1:]
        return f"{start}: you get your own model on another engine, {gain}, with the same answers."
    return f"{start}: you get your own model on its fastest equivalent engine."


def lede(result: Result, score: Score) -> list[Markup]:
    """The sentences under the headline: what was delivered, and the figures behind the words."""
    said = []
    delivered = Markup("<code>{}</code>").format(result.delivered.text)
    if result.status == "improved":
        said.append(Markup("Delivered: {}.").format(delivered))
    else:
        said.append(Markup("Why: {}. Delivered: {}.").format(result.reason.rstrip("."), delivered))
    if result.others:
        said.append(_networks(result))
    speed = _speed_sentence(result)
    if speed:
        said.append(Markup.escape(speed))
    if _is_set(result):
        said.append(Markup.escape(f"Set to: {result.operation}."))
    quality = result.delivered.evidence.prove_quality
    claim = result.claim
    if claim is not None and claim.kind == "equivalent":
        said.append(
            Markup.escape(
                f"On all {claim.n:,} examples its outputs are the original’s"
                " to within 0.1%, and no decision changed."
            )
        )
    elif quality is not None and claim is not None and claim.upper is not None:
        said.append(
            Markup.escape(
                f"On {quality.n:,} examples kept aside, {score.metric} went from"
                f" {score.value(quality.reference)} to {score.value(quality.candidate)};"
                f" with {_confidence(claim)} confidence the true loss is below"
                f" {score.drop(claim.upper)}."
            )
        )
    return said


def near_miss(result: Result, score: Score) -> Markup | None:
    """The fastest candidate that could not be claimed, as *search* saw it."""
    miss = result.near_miss
    if miss is None:
        return None
    seen = []
    if miss.speedup is not None and math.isfinite(miss.speedup):
        seen.append(f"{ratio(miss.speedup)} the fastest equivalent’s speed")
    if miss.drop is not None and math.isfinite(miss.drop):
        seen.append(f"a loss of {score.drop(miss.drop)} on the search examples")
    return Markup("The nearest miss was <code>{}</code>{}: {}.").format(
        miss.text, f", with {' and '.join(seen)}" if seen else "", miss.reason.rstrip(".")
    )


def facts(result: Result, score: Score) -> list[tuple[str, str]]:
    """What the claim rests on, name by name."""
    claim = result.claim
    if claim is None:
        return []
    examples = f"{claim.n:,}"
    if claim.groups != claim.n:
        examples += f" in {claim.groups:,} independent groups"
    found = [("Test", claim.method), ("Examples", examples)]
    quality = result.delivered.evidence.prove_quality
    if claim.kind == "equivalent":
        if quality is not None:
            worst = significant(quality.max_relative_error, 2)
            found.append(("Largest difference", f"{worst} relative, of at most 0.001"))
        return [*found, ("Computed on", ", ".join(claim.isa) or "unknown")]
    if claim.tolerance is not None:
        found.append(("Allowed loss", score.tolerance(claim.tolerance)))
    if quality is not None:
        seen = score.drop(quality.drop.estimate)
        if ends := score.drop_bounds(quality.drop):
            seen += f", {percent(quality.drop.confidence)} interval {ends}"
        found.append(("Loss seen", seen))
    if claim.upper is not None:
        found.append(("Loss at most", f"{score.drop(claim.upper)}, the bound claimed"))
    if claim.p is not None:
        found.append(("p-value", significant(claim.p, 2)))
    if claim.confidence is not None:
        found.append(("Confidence", _confidence(claim)))
    if claim.run is not None and claim.confidence is not None:
        found.append(("Use of the proof set", _run(claim.run, claim.confidence)))
    if claim.asymptotic:
        found.append(("Caution", "asymptotic: the error rate holds only approximately"))
    found.append(("Computed on", ", ".join(claim.isa) or "unknown"))
    if claim.proof_set:
        found.append(("Proof set", claim.proof_set[:16]))
    return found


def grounds(result: Result) -> list[str]:
    """How the claim came about: what *search* did, and what *prove* did."""
    roles = result.data.roles
    search, prove = roles.get("search", 0), roles.get("prove", 0)
    tried = len(result.trials)
    said = [
        f"Two separate parts of the data did two separate jobs. {search:,} examples, the search"
        f" part, served to compare {tried:,} candidates and to choose among them; because they"
        " chose, nothing is claimed from them."
    ]
    claim = result.claim
    if claim is None:
        said.append("No claim is made.")
    elif claim.kind == "equivalent":
        said.append(
            "What was delivered changes nothing on purpose: only graph clean-up, the engine or"
            " its exact options. Its outputs were compared with the original’s on every example,"
            " the part kept for the proof included."
        )
    else:
        said.append(
            f"The other {prove:,} examples were kept closed until the candidates, their order, the"
            " tolerance and the test had been fixed. Then the candidates were tested in that"
            " order, surest first, stopping at the first that failed, which holds the chance of"
            " any false claim to what was asked."
        )
    return said


def spending(result: Result) -> list[str]:
    """How energy and cost were found; empty in results of versions that did not."""
    three = (result.original, result.equivalent, result.delivered)
    said = []
    for found in (one.evidence.energy for one in three):
        if found is None:
            continue
        idle = ""
        if found.idle_watts is not None:
            idle = f" Idle, the counters showed {significant(found.idle_watts)} W."
        said.append(f"Energy is {found.kind}: {found.grounds}.{idle}")
    saved = next(
        (one for one in result.delivered.evidence.savings if one.against == "original"), None
    )
    if saved is not None:
        ends = ratio_bounds(saved.ratio)
        interval = f" ({percent(saved.ratio.confidence)} interval {ends})" if ends else ""
        said.append(
            f"The original’s inference takes {ratio(saved.ratio.estimate)} the energy of the"
            f" delivered one’s{interval}, {saved.kind}, in paired launches."
        )
    cost = result.delivered.evidence.cost
    if cost is not None:
        said.append(f"Cost at {cost.price} a machine: {cost.bound}.")
    return list(dict.fromkeys(said))


def answers(lost: int, won: int, n: int, score: Score) -> str:
    """What changed on the proof set, counted."""
    if score.kind == "agreement":
        return f"Of {n:,} answers, {lost:,} differ from the original’s."
    if score.kind == "binary":
        return (
            f"Of {n:,} examples, {lost:,} were right only with the original and {won:,}"
            " only with the delivered model."
        )
    return f"Of {n:,} examples, {lost:,} score lower than with the original and {won:,} higher."


def _gain(result: Result) -> str:
    """How much better the delivered one is at the goal; empty where that is unknown."""
    goal, before, after = result.target.goal, result.original, result.delivered
    if goal in ("size", "memory"):
        name = "file" if goal == "size" else "peak"
        was, now = _bytes(before, name), _bytes(after, name)
        if was and now and was > now:
            times = significant(was / now, 2)
            return f"{times}× smaller" if goal == "size" else f"{times}× less memory"
        return ""
    if goal == "energy":
        return _saving(after)
    found = _against(after, "original") or _against(after, "equivalent")
    if found is None or not math.isfinite(found.ratio.estimate):
        return ""
    text = _times_better(found.ratio, "cheaper" if goal == "cost" else "faster")
    if text and found.against == "equivalent" and not _same(result.original, result.equivalent):
        text += " than the fastest equivalent"
    return text


def _saving(after: Candidate) -> str:
    """How much less energy it takes, and how that is known."""
    savings = {saving.against: saving for saving in after.evidence.savings}
    found = savings.get("original") or savings.get("equivalent")
    if found is None:
        return ""
    text = _times_better(found.ratio, f"less energy ({found.kind})")
    return f"{text} than the fastest equivalent" if text and "original" not in savings else text


def _times_better(found: Interval, how: str) -> str:
    """``2.9× faster``; where the interval is wide, only what it makes sure of."""
    low, high = found.low, found.high
    if not (low > 0 and high < _WIDE * low):  # also where an end is unknown
        if not low > 1:
            return ""
        return f"At least {math.floor(low * 10) / 10 if low < 10 else math.floor(low):g}× {how}"
    if found.estimate <= 1:
        return ""
    return f"{significant(found.estimate, 2)}× {how}"


def _is_set(result: Result) -> bool:
    """Whether its batch size, threads or calls at once are worth a sentence."""
    asked = result.target.goal in ("throughput", "cost") or result.target.max_p99_seconds
    return bool(result.operation and (asked or result.delivered.evidence.points))


def _networks(result: Result) -> Markup:
    """Which of the given networks was delivered, and which one it was held against."""
    given = f"{1 + len(result.others)} networks were given, {result.model} as the original"
    if not (start := result.delivered.recipe.start):
        return Markup.escape(f"{given}, and it is what the delivered starts from.")
    return Markup.escape(
        f"{given}: the delivered starts from {start}, and was held against the original."
    )


def _speed_sentence(result: Result) -> str:
    said = []
    found = _against(result.delivered, "original")
    before, after = result.original.evidence.latency, result.delivered.evidence.latency
    if found is not None:
        start = "It is"
        if before and after and result.target.goal == "throughput":
            now, was = after[0].throughput, before[0].throughput
            start = f"It serves {significant(now)} examples a second instead of {significant(was)}:"
        elif before and after:
            unit = TimeUnit.fitting([before[0].p50.estimate, after[0].p50.estimate])
            start = (
                f"A median call takes {unit(after[0].p50.estimate)} instead of"
                f" {unit(before[0].p50.estimate)}:"
            )
        said.append(f"{start} {_times(found)} the speed of the original")
    other = _against(result.delivered, "equivalent")
    if other is not None and not _same(result.original, result.equivalent):
        said.append(f"{_times(other)} that of its fastest equivalent")
    return f"{', and '.join(said)}." if said else ""


def _times(found: Speedup) -> str:
    ends = ratio_bounds(found.ratio)
    interval = f" ({percent(found.ratio.confidence)} interval {ends})" if ends else ""
    return f"{ratio(found.ratio.estimate)}{interval}"


def _promise(claim: Claim, score: Score) -> str:
    verb = "shown, approximately," if claim.asymptotic else "proven"
    if claim.tolerance is None:
        return f"{verb} to keep its {claim.metric}"
    amount = score.tolerance(claim.tolerance)
    if score.kind == "agreement":
        return f"{verb} to change fewer than {percent(claim.tolerance)} of the answers"
    return f"{verb} to lose less than {amount} of {claim.metric}"


def _run(run: int, confidence: float) -> str:
    share, whole = percent(ledger_alpha(1 - confidence, run)), percent(1 - confidence)
    said = f"run {run}, at an error of {share} out of {whole}"
    return said if run == 1 else f"{said}: the set counts as reused"


def _confidence(claim: Claim) -> str:
    return "unknown" if claim.confidence is None else percent(claim.confidence)


def _against(candidate: Candidate, what: str) -> Speedup | None:
    return next((one for one in candidate.evidence.speedups if one.against == what), None)


def _bytes(candidate: Candidate, name: str) -> int | None:
    memory = candidate.evidence.memory
    return None if memory is None else getattr(memory, name)


def _same(one: Candidate, other: Candidate) -> bool:
    return one.recipe.id == other.recipe.id


def machine(result: Result) -> list[tuple[str, str]]:
    """The machine that the figures hold for."""
    found = result.machine
    cores = "core" if found.cores == 1 else "cores"
    return [
        ("Processor", found.cpu),
        ("Cores granted", f"{found.cores} logical {cores}, {found.physical_cores} physical"),
        ("Instruction sets", ", ".join(found.isa) or "none that matter"),
        ("Memory granted", size(found.memory_bytes)),
        ("System", f"{found.platform}, {found.architecture}"),
    ]


def asked(result: Result) -> list[tuple[str, str]]:
    """What was asked for."""
    target = result.target
    found = [
        ("Goal", target.goal),
        ("Batch", f"{target.batch:,}"),
        ("Threads a call", f"{target.threads or f'up to {target.thread_count}'}"),
        ("Device", target.device),
    ]
    if target.max_memory_bytes is not None:
        found.append(("Memory at most", size(target.max_memory_bytes)))
    if target.max_p99_seconds is not None:
        limit = TimeUnit.fitting([target.max_p99_seconds])(target.max_p99_seconds)
        found.append(("99% of calls within", limit))
    if target.price is not None:
        found.append(("Price of a machine", str(target.price)))
    if target.rate is not None:
        found.append(("Inferences required", f"{significant(target.rate)}/s"))
        found.append(("Use of a machine at most", percent(target.max_utilisation)))
    if target.watts_per_core is not None:
        found.append(("Watts a busy logical CPU", significant(target.watts_per_core)))
    return found
