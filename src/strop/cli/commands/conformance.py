"""`strop conformance`: its options as they are typed."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from strop.cli.commands.options import JsonOption, TrustOption


def conformance(
    models: Annotated[
        list[str], typer.Argument(help="Models, or folders of them, such as the fetched zoo.")
    ],
    engine: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--engine", help="These engines only; may be repeated."),
    ] = None,
    examples: Annotated[int, typer.Option("--examples", help="Examples of a call.")] = 4,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds that one engine may take for one model.")
    ] = 300.0,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the matrix as a page of Markdown.")
    ] = False,
    trust: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Run every engine on every model: the model's own answers, or the reason why not."""
    from strop.cli import conformance as command

    options = command.Options(
        models=models, engines=engine, examples=examples, timeout=timeout, trust=trust
    )
    raise typer.Exit(command.run(options, as_json=json_, markdown=markdown))
