"""Turn raw data into a folder to train on; the same as ``xraygpt prepare``.

python prepare.py openi --reports NLMCXR_reports.tgz --images NLMCXR_png.tgz --out dataset/openi
"""

import sys
from functools import partial

from xraygpt.cli import run_script

main = partial(run_script, "prepare")

if __name__ == "__main__":
    sys.exit(main())
