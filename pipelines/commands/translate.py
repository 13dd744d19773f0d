"""``gantry translate MODEL IN OUT``: translate a picture, a folder or a zip by an image-to-image generator."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--target", help="Domain (or attribute) to translate to, by name or number, where there are several.")
@click.option(
    "--like",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A picture of that domain, whose style is taken (stargan2); --seed names a style otherwise.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--batch", default=16, show_default=True, type=click.IntRange(min=1), help="At once, at most; large ones go alone."
)
@click.option("--replace", is_flag=True, help="Overwrite pictures that are there.")
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
    """Translate the pictures of IN by an image-to-image generator.

    MODEL is a registered model (NAME, NAME/VERSION, NAME@ALIAS), the id of an MLflow run, or the folder of an exported
    generator. IN is a picture, a folder of any depth, or a zip; pictures may have any size and keep it. OUT is a folder,
    and each result is a PNG with the name and place of its picture; for a single picture OUT may be a .png, .jpg or .webp.
    Results are upright and keep the transparency of their pictures; of an animation the first picture is translated. The
    picture given by --like is cropped and resized to the size of training. Pictures that are read are never overwritten,
    other files only with --replace. A picture that fails is reported, the others are translated, and the exit status is 1. A
    full disk ends the command, and finished results stay. The same pictures, seed and generator give the same results for
    any --batch.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.images.files import PictureFiles, kinds
    from gan_core.inference.conditions import domain_names, target_index
    from gan_core.inference.generator import load_generator
    from gan_core.inference.translate import check_free, check_kept, load_reference, plan, translate_files
    from gan_core.precision import choose_device
    from pipelines.registry.find import generator_folder
    from pipelines.settings.tracking_uri import project_tracking_uri

    with PictureFiles(source, encoding) as files:
        tasks = plan(files, out)
        check_kept([source / name for name in files.names] if source.is_dir() else [source], tasks, like)
        check_free(tasks, out, replace)
        with generator_folder(model, tracking_uri=project_tracking_uri(Path.cwd())) as folder:
            generator = load_generator(folder, choose_device(device))
        chosen = target_index(generator, target)
        reference = None if like is None else load_reference(like, generator)
        outcome = translate_files(generator, tasks, files, target=chosen, seed=seed, batch=batch, reference=reference)
    if as_json:
        told = {"generator": generator.digest, "out": str(out), "translated": outcome.translated}
        click.echo(json.dumps({**told, "failed": outcome.failed, "left_aside": files.others}, indent=2))
    else:
        names = domain_names(generator)
        # Of two domains that a generator goes to and fro between, the second is meant where none is named.
        meant = target or (names[1] if len(names) == 2 else None)
        to = ("" if meant is None else f" to {meant}") + ("" if like is None else f" like {like}")
        count = "1 picture" if outcome.translated == 1 else f"{outcome.translated} pictures"
        click.echo(f"{count} translated{to} by generator {generator.digest[:12]}: {out}")
        if files.others:
            click.echo(f"Left aside {kinds(files.others)} that are no pictures.", err=True)
        if outcome.failed:
            click.echo(f"{len(outcome.failed)} of {len(tasks)} failed:", err=True)
            for name, reason in outcome.failed.items():
                click.echo(f"  {name}: {reason}", err=True)
    if outcome.failed:
        context.exit(1)
