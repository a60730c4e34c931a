"""Facts and rules to findings: a fact never accuses, a rule never parses."""
