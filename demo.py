"""Chat about a chest radiograph in the browser; the same as ``xraygpt demo``.

python demo.py
python demo.py --cfg-path eval_configs/xraygpt_eval.yaml --server-port 7861 --device cuda
"""

import sys
from functools import partial

from xraygpt.cli import run_script

main = partial(run_script, "demo")

if __name__ == "__main__":
    sys.exit(main())
