"""``gantry translate MODEL IN OUT``: translate a picture, a folder or a zip with an image-to-image generator."""

import json
from pathlib import Path

import click

from gan_core.errors import SettingsError


@click.command()
@click.argument("model")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--target",
    help="Domain or attribute to translate to, by name or number, if there are several. Default for cyclegan: the second.",
)
@click.option(
    "--like",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A picture of that domain whose style to use (stargan2). Without it, --seed chooses a style.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--batch",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="Maximum number of pictures per batch. Large pictures are translated one at a time.",
)
@click.option("--replace", is_flag=True, help="Overwrite existing files.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--encoding", metavar="NAME", help="Encoding of the file names in a zip that does not state it: cp932, gbk, ..."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def translate(
    context: click.Context,
    model: str,
    source: Path,
    out: Path,
    target: str | None,
    like: Path | None,
    seed: int,
    batch: int,
    replace: bool,
    device: str,
    encoding: str | None,
    as_json: bool,
) -> None:
    """Translate the pictures of IN with an image-to-image generator.

    Name MODEL as for gantry sample. IN is a picture, a folder with any subfolders, or a zip. Pictures may have any size, and
    results have the same size. OUT is a folder in which each result is a PNG with the name and subfolder of its picture; for a
    single picture, OUT may also be a .png, .jpg or .webp.

    Results are upright and keep transparency. Only the first frame of an animation is translated. The picture of --like is
    cropped and resized to the training size. Input pictures are never overwritten, other files only with --replace.

    If a picture fails, the others are still translated, and the exit status is 1. A full disk ends the command; finished
    results are kept. The same pictures, seed and generator give the same results for any --batch.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.images.files import PictureFiles, summarize_suffixes
    from gan_core.inference.conditions import domain_names, target_index
    from gan_core.inference.generator import load_generator
    from gan_core.inference.translate import (
        check_inputs_kept,
        check_outputs_free,
        load_reference,
        plan,
        translate_files,
    )
    from gan_core.precision import choose_device
    from pipelines.registry.find import generator_folder
    from pipelines.settings.tracking_uri import project_tracking_uri

    with PictureFiles(source, encoding) as files:
        if encoding and (files.is_single or source.is_dir()):
            raise SettingsError(f"--encoding {encoding}: {source} is not a zip. Leave it out.")
        tasks = plan(files, out)
        check_inputs_kept([source / name for name in files.names] if source.is_dir() else [source], tasks, like)
        check_outputs_free(tasks, out, replace)
        with generator_folder(model, tracking_uri=project_tracking_uri(Path.cwd())) as folder:
            generator = load_generator(folder, choose_device(device))
        chosen = target_index(generator, target)
        reference = None if like is None else load_reference(like, generator)
        outcome = translate_files(generator, tasks, files, target=chosen, seed=seed, batch=batch, reference=reference)
    if as_json:
        result = {"generator": generator.digest, "out": str(out), "translated": outcome.translated}
        click.echo(json.dumps({**result, "failed": outcome.failed, "skipped": files.others}, indent=2))
    else:
        names = domain_names(generator)
        # With two domains, the second is the default target.
        meant = target or (names[1] if len(names) == 2 else None)
        to = ("" if meant is None else f" to {meant}") + ("" if like is None else f" like {like}")
        count = "1 picture" if outcome.translated == 1 else f"{outcome.translated} pictures"
        click.echo(f"{count} translated{to} by generator {generator.digest[:12]}: {out}")
        if files.others:
            click.echo(f"Not pictures, so skipped: {summarize_suffixes(files.others)}", err=True)
        if outcome.failed:
            click.echo(f"{len(outcome.failed)} of {len(tasks)} failed:", err=True)
            for name, reason in outcome.failed.items():
                click.echo(f"  {name}: {reason}", err=True)
    if outcome.failed:
        context.exit(1)
