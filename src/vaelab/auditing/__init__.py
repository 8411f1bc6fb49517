"""The audit: what a loss, a model or an estimator of the likelihood really computes, measured from outside."""
