"""Make one Hugging Face folder of a training's checkpoint: `cinema-verl export RUN_DIR --output DIR`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from cinema_verl.export.find import find
from cinema_verl.export.folder import Options, export
from cinema_verl.export.shards import ExportError
from cinema_verl.utils.arguments import Parser
from cinema_verl.utils.files import Locked

EPILOG = """\
RUN_DIR is any folder of the run, as for `cinema-verl report`, or a checkpoint (global_step_N).
The folder that is written has
  model*.safetensors        the weights, from the shards of any number of processes; LoRA merged
  config, tokenizer, processor, chat template
  generation_config.json    stops at </answer>; with transformers: model.generate(..., tokenizer=processor.tokenizer)
  cinema.json               how the policy was asked in training, which `cinema-verl ask` reads
  README.md                 a model card, filled from the run
It is written beside DIR and renamed when it is whole. Memory holds one tensor at a time.

examples:
  cinema-verl export outputs/demo --output outputs/policy
  cinema-verl export outputs/first --step 800 --output policy-800 --dtype bfloat16
  cinema-verl ask outputs/policy --image a.png --image b.png "Which image shows the largest digit?"

exit codes: 0 the folder is there, 1 it cannot be made, and nothing was left, 2 the command line is not understood
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and return the exit code."""
    parser = Parser(
        prog="cinema-verl export",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR", help="a run of reinforcement learning or of the cold start")
    add("--output", type=Path, required=True, metavar="DIR", help="the folder to make; it must not be there")
    add("--step", type=int, metavar="N", help="global step of the checkpoint (default: the newest)")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights; bfloat16 halves them, and rounds (default: as trained, float32 where LoRA is merged)",
    )
    add(
        "--no-stop-strings",
        action="store_true",
        help="leave </answer> out of generation_config.json, for programs that call generate() without a tokenizer",
    )
    options = parser.parse_args(arguments)
    output: Path = options.output.absolute()
    try:
        found = find(options.run, options.step)
        with tqdm(unit="B", unit_scale=True, desc=f"step {found.step}", disable=None, leave=False) as bar:

            def progress(done: int, size: int) -> None:
                bar.total = size
                bar.update(done - bar.n)

            done = export(found, output, Options(options.dtype, not options.no_stop_strings), progress)
    except (ExportError, Locked, OSError) as error:
        print(f"cinema-verl export: {error}", file=sys.stderr)
        return 1
    there = "was there already: " if done.before else ""
    size = f"{done.size / 1e9:.1f} GB" if done.size >= 1e9 else f"{done.size / 1e6:.1f} MB"
    print(f"{options.output}  {there}step {found.step}, {done.count} weights, {size} in {done.dtype}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
