"""Frozen, schema-versioned plain data: what the rooms hand to one another."""

from strop.records._base import Record, canonical_json
from strop.records.applicability import Applicability
from strop.records.claim import Claim
from strop.records.cost import Cost, Price
from strop.records.energy import Energy, EnergyKind, Saving
from strop.records.event import (
    BestChanged,
    Event,
    ProofFinished,
    ProofOpened,
    SearchFinished,
    SearchStarted,
    StageEntered,
    TrialFinished,
    TrialStarted,
    Warned,
    read_event,
)
from strop.records.evidence import (
    Evidence,
    Latency,
    Memory,
    OperatingPoint,
    Quality,
    ScoreKind,
    Speedup,
)
from strop.records.interval import Interval
from strop.records.machine import Goal, Machine, Target
from strop.records.manifest import BatchLatency, Manifest
from strop.records.recipe import Deployment, Recipe, Step
from strop.records.result import Candidate, DataSummary, NearMiss, Network, Result
from strop.records.session import Placement, SessionSpec
from strop.records.signature import Dim, Signature, TensorSpec
from strop.records.space import Choice, Space
from strop.records.trial import Stage, Status, Trial

__all__ = [
    "Applicability",
    "BatchLatency",
    "BestChanged",
    "Candidate",
    "Choice",
    "Claim",
    "Cost",
    "DataSummary",
    "Deployment",
    "Dim",
    "Energy",
    "EnergyKind",
    "Event",
    "Evidence",
    "Goal",
    "Interval",
    "Latency",
    "Machine",
    "Manifest",
    "Memory",
    "NearMiss",
    "Network",
    "OperatingPoint",
    "Placement",
    "Price",
    "ProofFinished",
    "ProofOpened",
    "Quality",
    "Recipe",
    "Record",
    "Result",
    "Saving",
    "ScoreKind",
    "SearchFinished",
    "SearchStarted",
    "SessionSpec",
    "Signature",
    "Space",
    "Speedup",
    "Stage",
    "StageEntered",
    "Status",
    "Step",
    "Target",
    "TensorSpec",
    "Trial",
    "TrialFinished",
    "TrialStarted",
    "Warned",
    "canonical_json",
    "read_event",
]
