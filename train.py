"""Train a model; the same as ``xraygpt train``.

python train.py --cfg-path train_configs/xraygpt_mimic_pretrain.yaml --options run.max_epoch=2
torchrun --nproc-per-node 4 train.py --cfg-path train_configs/xraygpt_mimic_pretrain.yaml
"""

import sys
from functools import partial

from xraygpt.cli import run_script

main = partial(run_script, "train")

if __name__ == "__main__":
    sys.exit(main())
