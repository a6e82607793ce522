"""The command line for bulk jobs: `python client/bulk.py IMAGES.parquet --output SCORES`.

    Parquet files --split--> parts --Ray Data--> workers --gRPC--> servers, or --local: the models
                                        each writes one Parquet file per part

The file of a part has a fixed name and is written completely or not at all. So a part that is
scored twice, because a node died or the job was restarted, still has one row per image.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ma_agiqa_client._programs.console import Console
from ma_agiqa_client._programs.server_options import (
    HELP_OPTIONS,
    Program,
    ServerOptions,
    server_options,
    timeout_option,
)
from ma_agiqa_client._programs.serving import keeps_version, open_scorer
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import ClientError, WrongModelError

if TYPE_CHECKING:
    from ma_agiqa_client.bulk._local import LocalModels
    from ma_agiqa_client.bulk._parts import Job, Part
    from ma_agiqa_client.bulk._worker import WorkerSettings

EXIT_BAD_IMAGES = 1
EXIT_NO_SERVER = 3
EXIT_JOB = 4

_EPILOG = """\b
Examples:
  PROGRAM images.parquet --output scores --url localhost:8001
  PROGRAM s3://bucket/images/ --output s3://bucket/scores \\
      --url gpu-1:8001 --url gpu-2:8001 --ray auto --workers 16
  PROGRAM pixels.parquet --column png --output scores --keep id
  PROGRAM images.parquet --output scores --local AGIQA_3k.pt --dtype bfloat16

\b
Exit status:
  0    every image has a score
  1    some image has no score; the columns error and error_kind say why
  2    wrong usage, or Ray is not installed
  3    no server that can score, or it went away: run the same command again
  4    the output belongs to another job, or the input or the models cannot be read
"""


@click.command(cls=Program, epilog=_EPILOG, context_settings=HELP_OPTIONS)
@click.argument("inputs", nargs=-1, required=True, metavar="TABLE...")
@click.option(
    "-o", "--output", required=True, metavar="FOLDER", help="Folder of the scores: a path or a URI."
)
@click.option(
    "--column",
    default="image",
    show_default=True,
    help="Column with the images: paths, URIs such as s3://bucket/a.png, the files' bytes, or "
    "structs of bytes and path. In tars: ending of the images' names, such as jpg, if there are "
    "several.",
)
@click.option("--keep", multiple=True, metavar="COLUMN", help="Copy this column to the scores.")
@click.option(
    "--rows-per-part",
    type=click.IntRange(1, 1_000_000),
    default=5_000,
    show_default=True,
    help="Images in one part. At most one part per worker is scored again after a failure.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that send images, on all nodes of the cluster together. Default: 2; with "
    "--local as many as have GPUs, or one for each node.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Maximum number of images in flight per worker; with --local, those that are decoded "
    "while a batch is computed.",
)
@timeout_option
@click.option(
    "--outage",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the servers may be unavailable before the job ends.",
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Also send the images again that an earlier run could not score because of a store or a "
    "server.",
)
@click.option(
    "--ray",
    "ray_address",
    metavar="ADDRESS",
    help="Address of a Ray cluster, or auto; by default Ray runs on this machine only.",
)
@click.option(
    "--local",
    metavar="CHECKPOINT",
    help="Ask no server: each worker loads this scorer, a checkpoint folder or an authors' "
    ".pt file, and its embedder.",
)
@click.option(
    "--embedder",
    metavar="SOURCE",
    help="With --local: folder or hub name of mPLUG-Owl2. Default: the one of the checkpoint.",
)
@click.option(
    "--dtype",
    help="With --local: dtype of the embedder's weights, such as bfloat16. Default: the one "
    "the scorer was trained with, else float32.",
)
@click.option(
    "--gpus",
    type=click.FloatRange(min=0),
    metavar="N",
    help="With --local: GPUs of each worker, or a share of one; 0 computes on the CPU. "
    "Default: 1 where Ray finds GPUs, else 0.",
)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --local: cores of each worker, which decode that many images at once. Default: "
    "an equal share of a node's.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --local: images that are computed together. Default: 32.",
)
@server_options
def main(
    inputs: tuple[str, ...], ray_address: str | None, workers: int | None, **values: Any
) -> None:
    """Score the images of Parquet tables or WebDataset tars; Parquet out, one row per image.

    Run the same command again after any failure: finished parts are kept.
    """
    _require_ray()
    from ma_agiqa_client.bulk._local import read_card
    from ma_agiqa_client.bulk._parts import Job
    from ma_agiqa_client.bulk._store import JobError
    from ma_agiqa_client.bulk._worker import WorkerSettings

    server = ServerOptions.take_from(values)
    models = _models(values)
    inputs = tuple(map(_absolute, inputs))
    output = _absolute(values["output"])
    if models is None and not server.url:
        raise click.UsageError(
            "A bulk job needs a running server: give its address with --url. Or compute in the "
            "workers, with --local CHECKPOINT."
        )
    console = Console()
    try:
        tls = server.make_tls()
        card, version = (read_card(models.local), None) if models else _card(server)
        checksum = card.checkpoint_sha256
        settings = WorkerSettings(
            models=models,
            url=server.url,
            tls=tls,
            token=server.token,
            version=version,
            checkpoint_sha256=checksum,
            column=values["column"],
            keep=values["keep"],
            in_flight=values["in_flight"],
            timeout_s=values["timeout"],
            outage_s=values["outage"],
            output=output,
            retry_failed=values["retry_failed"],
        )
        job = Job.open(
            inputs,
            output,
            columns=(values["column"], *values["keep"]),
            rows_per_part=values["rows_per_part"],
            checkpoint_sha256=checksum,
        )
        with redirect_stdout(sys.stderr):  # Ray prints there that a node has died
            _run(job, settings, workers, ray_address, console)
        summary = job.summary()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except WrongModelError as error:
        console.print(
            f"{error}\nFinished parts are kept. If their model is no longer served, start again "
            "with another --output: scores of two models cannot be compared."
        )
        sys.exit(EXIT_NO_SERVER)
    except ClientError as error:
        console.print(f"{error}\nRun the same command again: finished parts are kept.")
        sys.exit(EXIT_NO_SERVER)
    except JobError as error:
        console.print(str(error))
        sys.exit(EXIT_JOB)
    except OSError as error:
        console.print(f"{error}\nRun the same command again: finished parts are kept.")
        sys.exit(EXIT_JOB)
    click.echo(json.dumps(summary))
    sys.exit(EXIT_BAD_IMAGES if summary["failed"] else 0)


def _absolute(name: str) -> str:
    """Return a path that means the same to workers, which run in another folder; URIs do."""
    return name if "://" in name else os.path.abspath(name)


def _require_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise click.UsageError(
            f"Bulk jobs run on Ray Data, which is not installed ({error}). "
            "Run in a clone of the repository: pip install -c constraints.txt './client[bulk]'"
        ) from error


def _models(values: dict[str, Any]) -> "LocalModels | None":
    """Return the models that the workers are to load; None if they ask servers.

    Raises:
        click.UsageError: there are options of both.
    """
    from ma_agiqa_client.bulk._local import LocalModels

    names = [field.name for field in fields(LocalModels)]
    given = {name: values[name] for name in names if values[name] is not None}
    if "local" not in given:
        for name in given:
            raise click.UsageError(f"--{name} is for models that workers load: give --local, too.")
        return None
    source = click.get_current_context().get_parameter_source("url")
    if source is ParameterSource.COMMANDLINE:
        raise click.UsageError("Give either servers (--url) or models to load (--local).")
    for name in ("local", "embedder"):  # workers run in another folder
        if os.path.exists(given.get(name, "")):
            given[name] = os.path.abspath(given[name])
    return LocalModels(**given)


def _card(server: ServerOptions) -> tuple[ModelCard, int | None]:
    """Return the card of the served model and the version to ask for, before the job starts."""
    with open_scorer(server, server.url, version=server.model_version) as scorer:
        card = scorer.model(timeout_s=60.0)
    kept = server.model_version is None and keeps_version(server, server.url, card)
    return card, card.version if kept else server.model_version


def _run(
    job: "Job",
    settings: "WorkerSettings",
    workers: int | None,
    ray_address: str | None,
    console: Console,
) -> None:
    pending = job.pending(settings.retry_failed)
    done = len(job.parts) - len(pending)
    if done:
        console.print(f"{done} of {len(job.parts)} parts were scored earlier.")
    if not pending:
        return
    with console.progress(sum(part.rows for part in pending), hidden=False) as (bar, task):
        for rows in _scored(pending, settings, workers, ray_address):
            bar.advance(task, rows)


def _scored(
    parts: Sequence["Part"],
    settings: "WorkerSettings",
    workers: int | None,
    ray_address: str | None,
) -> Iterator[int]:
    """Score the parts; yield the number of rows of each once its file is written.

    Raises:
        ClientError: the servers are not available.
        JobError: an input can no longer be read, or the output cannot be written.
    """
    import ray

    from ma_agiqa_client.bulk._local import placed
    from ma_agiqa_client.bulk._worker import PartScorer, cause

    ray.init(address=ray_address, include_dashboard=False, log_to_driver=False)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        models = settings.models
        if models is not None:
            nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
            models, workers = placed(models, workers, nodes())
            settings = replace(settings, models=models)
        records = [asdict(part) for part in parts]
        most = min(workers or 2, len(parts))
        scored = ray.data.from_items(records, override_num_blocks=len(parts)).map_batches(
            PartScorer,
            fn_constructor_args=(settings,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=models.cores if models else 0.5,  # one that asks servers mostly waits
            num_gpus=(models and models.gpus) or None,
        )
        for row in scored.iter_rows():
            yield int(row["rows"])
    except ray.exceptions.RayError as error:
        raise cause(error) from error
    finally:
        ray.shutdown()
