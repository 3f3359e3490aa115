"""Reports on programs."""

from ppl.reports.check import Report as Report
from ppl.reports.check import check as check
