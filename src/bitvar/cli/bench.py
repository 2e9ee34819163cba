"""`bitvar bench`: measure speed and memory. Benchmarks are commands, never assertions."""

import typer

from bitvar.cli import bench_command, bench_generate, bench_serve, bench_training, bench_variants

app = typer.Typer(help="Benchmarks.", no_args_is_help=True, rich_markup_mode=None)


for verb in (
    bench_generate.generate,
    bench_generate.compare,
    bench_training.train,
    bench_training.attention,
    bench_training.loader,
    bench_training.index,
    bench_training.save,
    bench_serve.serve,
    bench_command.command,
    bench_variants.variants,
):
    app.command()(verb)


@app.callback()
def _callback() -> None:
    pass
