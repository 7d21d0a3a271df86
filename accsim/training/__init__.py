"""Learning rules over the fixed-point kernels; values only, no clock.

A published method is a rule, what it asks the student to agree on, and what the stream shows:

- supervised: `Supervised`; averaged: `WeightAverage`, `Exponential` or, as in SWA, `Equal`
- mean teacher: `MeanTeacher` with `LogitDistance`; as published `ProbabilityDistance` and no
  threshold
- weak-strong: `MeanTeacher` with `PseudoLabel`; a `Strong` view in the stream
- interpolation consistency (ICT): `MeanTeacher` with `ProbabilityDistance`, no threshold; `Mixup`
- Pi model: `SelfTaught` with `ProbabilityDistance` and no threshold
- temporal ensembling: `TemporalEnsembling` with `ProbabilityDistance` and no threshold
- pseudo-labels: `SelfTaught` with `PseudoLabel`; with a `Strong` view FixMatch
- unsupervised data augmentation (UDA): `SelfTaught` with `Divergence(0.4)`; a `Strong` view
- virtual adversarial training (VAT): `VirtualAdversarial`
- MixMatch, of the frames alone: `SelfTaught` with `Divergence(0.5)`; 2 `label_views`, `Mixup`
- teacher, rank, student, fine-tune (billion-scale): `RankedPseudoLabels`
- Noisy Student: `NoisyStudent`; a `Strong` view

Each runs in float32 too: `InFloat`.
"""
