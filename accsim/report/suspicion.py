"""What in a run's tables looks like an error that nothing else would tell.

Such errors went unseen for years in published code: a student that was compared with itself, so
that its frames taught nothing, and averages in words too short to move.
"""

from accsim.report.tables import Tables, pseudo_label_shares

STANDSTILL = 0.25  # of the run, without an update in the end
LEAST_SAMPLES = 10  # accepted, for each class, before their shares say anything


def suspicions(tables: Tables) -> list[str]:
    """One sentence for each; none for a run that looks sound."""
    found = []
    steps = tables.steps
    if steps["accepted"].any() and not steps["frame_error"].any():
        found.append(
            f"{steps['accepted'].sum():,} unlabelled samples were accepted, but none gave the "
            "student an error: they taught nothing"
        )
    if steps["teacher_accuracy"].notna().any() and not steps["teacher_changed"].any():
        found.append("no word of the teacher ever moved: it is still its random start")
    predictions = tables.counters[tables.counters["class"] == "predictions"]
    if len(predictions) and not predictions["moved"].any():
        found.append(
            "no frame came a second time, so that none had an earlier prediction for a label: the "
            "frames taught nothing"
        )
    still = int((steps["backward_samples"][::-1] == 0).cumprod().sum())
    if still > STANDSTILL * len(steps):
        found.append(
            f"the last {still:,} of {len(steps):,} batches were rejected whole: the student stands "
            "still, and its labels can get no surer"
        )
    return found + _collapse(tables)


def _collapse(tables: Tables) -> list[str]:
    """The last stretch in which one class took more than half of what it had no claim to.

    Of C classes an even share is 1/C; the bound is half-way from there to all.
    """
    labels = tables.pseudo_labels
    classes = labels["class"].nunique()
    accepted = labels.groupby("step")["accepted"].sum()
    enough = accepted.index[accepted >= LEAST_SAMPLES * classes]
    shares = pseudo_label_shares(tables)
    beyond = shares[shares["step"].isin(enough) & (shares["share"] > (1 + 1 / classes) / 2)]
    if beyond.empty:
        return []
    last = beyond.iloc[-1]
    return [
        f"the labels have collapsed: {last['share']:.1%} of the {accepted[last['step']]:,} samples "
        f"accepted up to step {last['step']:,} were labelled {last['class']}"
    ]
