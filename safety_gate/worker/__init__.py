"""One loop: lease a job, judge it, publish the verdict, finish."""
