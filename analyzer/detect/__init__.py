"""Facts and rules in, findings out: `rule.load` reads the packs, `engine.judge` asks them about each subject."""
