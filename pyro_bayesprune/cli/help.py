"""The --help pages: options by topic, without the notation of Python's types."""

from argparse import SUPPRESS, Action

from jsonargparse import ArgumentParser, DefaultHelpFormatter

TOPICS = {
    "data and network": "dataset target_column validation data_seed network hidden channels",
    "probability model": "likelihood noise objective prior prior_scale prior_df temperature",
    "pruning": "sparsity criterion scope schedule regrow update restart rounds rewind_epoch",
    "decisions by Bayes factors": "gate beta per evaluation alpha judge",
    "training": "epochs batch_size learning_rate annealing autocast seed",
    "files and machine": "out data_dir device threads",
}


class Formatter(DefaultHelpFormatter):
    """Appends the default to the help of an option."""

    def _get_help_string(self, action: Action) -> str:
        text = (action.help or "").removesuffix(".")
        hidden = action.default is False or action.default in (None, SUPPRESS, "")
        if hidden or not action.option_strings:
            return text
        return f"{text} (default: %(default)s)"


def group_by_topic(parser: ArgumentParser) -> None:
    """Show the options of a parser under the titles of `TOPICS`, and the others first."""
    options = parser._optionals._group_actions
    by_name = {action.dest: action for action in options}
    for title, names in TOPICS.items():
        group = parser.add_argument_group(title)
        actions = [by_name[name] for name in names.split() if name in by_name]
        group._group_actions.extend(actions)
        for action in actions:
            options.remove(action)
