"""Generate and score reports; the same as ``xraygpt evaluate``.

python evaluate.py --cfg-path eval_configs/quickstart.yaml --options model.ckpt=checkpoint_best.pth
python evaluate.py score predictions.csv --out scores
python evaluate.py compare predictions_a.csv predictions_b.csv
"""

import sys
from functools import partial

from xraygpt.cli import run_script

main = partial(run_script, "evaluate")

if __name__ == "__main__":
    sys.exit(main())
