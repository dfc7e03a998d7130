"""`--config FILE`: the options of a verb from TOML and YAML."""

import pytest

from modeling_mm_orient.cli import main, parsed

TOML = """
data = "posts"
labels = ["mood", "score"]
text_column = "caption"
epochs = 3
learning-rate = 2e-4
augment_images = true
resume = false
allow_outside = ["a", "b"]
report_to = ["tensorboard"]
[set]
hima_stage2 = false
task_weighting = "uniform"
"""


def write(folder, text: str, name: str = "options.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_options_of_a_file(tmp_path):
    options = parsed(["train", "--config", write(tmp_path, TOML), "--output", "RUN"])
    assert (options.data, options.labels, options.text_column) == ("posts", ["mood", "score"], ["caption"])
    assert (options.epochs, options.learning_rate, options.augment_images) == (3, 2e-4, True)
    assert options.resume is False and options.allow_outside == ["a", "b"]
    assert options.set == ["hima_stage2=false", "task_weighting=uniform"]
    assert options.others_of_file == {"report-to": ["tensorboard"]} and options.others == []


def test_yaml_says_the_same(tmp_path):
    pytest.importorskip("yaml")
    text = "data: posts\nlabels: [mood, score]\nepochs: 3\nset: {hima_stage2: false}\n"
    options = parsed(["train", "--config", write(tmp_path, text, "o.yaml"), "--output", "RUN"])
    assert (options.labels, options.epochs, options.set) == (["mood", "score"], 3, ["hima_stage2=false"])


def test_the_command_line_counts_more(tmp_path):
    file = write(tmp_path, TOML)
    options = parsed(
        ["train", "--epochs=9", "--labels", "x", "--allow-outside", "c", f"--config={file}", "--output", "RUN"]
    )
    assert (options.epochs, options.labels, options.allow_outside, options.data) == (9, ["x"], ["c"], "posts")
    graph = write(tmp_path, 'data = "x"\noutput = "y"\nthreshold = 0.5\n', "graph.toml")
    options = parsed(["graph", "--top-k", "3", "--config", graph])
    assert (options.top_k, options.threshold) == (3, None)


def test_names_of_the_command_line_count_more_and_others_stay(tmp_path):
    file = write(tmp_path, TOML)
    options = parsed(["train", "--config", file, "--output", "RUN", "--set", "hima_stage2=true", "--set", "members=2"])
    assert sorted(options.set) == ["hima_stage2=true", "members=2", "task_weighting=uniform"]


@pytest.mark.parametrize("verb", [["predict"], ["evaluate"], ["memory", "add"]])
def test_a_list_leaves_the_run_its_place(tmp_path, verb):
    file = write(tmp_path, 'text-column = ["title", "text"]\n')
    for words in (["RUN", "--config", file], ["--config", file, "RUN"]):
        output = ["--output", "o.jsonl"] if verb == ["predict"] else []
        options = parsed([*verb, *words, "--data", "posts", *output])
        assert (options.model, options.text_column) == ("RUN", ["title", "text"])


def test_verbs_below_verbs_read_it(tmp_path):
    options = parsed(["memory", "build", "RUN", "--config", write(tmp_path, 'data = "posts"\ntop-k = 4\n')])
    assert (options.model, options.data, options.top_k) == ("RUN", "posts", 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('data = "x"\nsplitt = "test"\n', "unknown option 'splitt'; did you mean 'split'?"),
        ("batch_size = [1, 2]\n", "'batch_size' takes one value, got a list"),
        ("batch_size = true\n", "invalid int value: 'true'"),
        ('known = "yes"\n', "'known' must be true or false, got 'yes'"),
        ('split = "a"\n"split" = "b"\n', "cannot be read"),
        ("batch-size = 1\nbatch_size = 2\n", "'batch-size' and 'batch_size' are one option"),
        ("split\n", "cannot be read"),
        ("split = " + "[" * 50_000 + "]" * 50_000, "cannot be read"),
        ("[split]\na = 1\n", "'split' takes no table"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path, capsys, text, message):
    file = write(tmp_path, text)
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "RUN", "--data", "x", "--config", file])
    said = capsys.readouterr().err
    assert left.value.code == 2 and message in said and (file in said or "invalid" in said)


@pytest.mark.parametrize("file", ["nowhere.toml", "options.ini", "."])
def test_a_file_that_cannot_be_read(file, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "RUN", "--data", "x", "--config", file])
    assert file in capsys.readouterr().err


def test_an_unknown_option_of_the_trainer_is_of_the_file(tmp_path, capsys):
    file = write(tmp_path, "data = 'x'\nlabels = ['a']\noutput = 'y'\nreprot_to = 'tensorboard'\n")
    assert main(["train", "--config", file]) == 1
    assert f"{file}: there is no option --reprot-to; did you mean --report-to?" in capsys.readouterr().err


def test_what_no_verb_knows_is_an_error_elsewhere(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "RUN", "--data", "x", "--max-grad-norm", "1"])
    assert "unrecognized arguments: --max-grad-norm 1" in capsys.readouterr().err


def test_all_verbs_take_it(capsys):
    for verb in (["predict"], ["inspect-data"], ["benchmark"], ["ray", "extract"], ["memory", "inspect"]):
        with pytest.raises(SystemExit):
            main([*verb, "--help"])
        assert "--config FILE" in capsys.readouterr().out


def test_a_wrong_command_is_told_in_one_line(capsys):
    for command in (["train"], ["explain", "RUN"], ["nonesuch"], ["report", "RUN", "--splitt", "x"]):
        with pytest.raises(SystemExit) as left:
            main(command)
        said = capsys.readouterr().err
        assert left.value.code == 2 and said.startswith("mm-orient") and said.count("\n") == 1 and "--help" in said


@pytest.mark.parametrize("cut", [["--epoch", "3"], ["--out", "other"], ["--lab", "x"]])
def test_an_option_that_is_cut_short_does_not_lose_to_the_file(tmp_path, cut, capsys):
    file = write(tmp_path, TOML + "\n")
    command = ["train", "--config", file, "--output", "RUN", *cut]
    assert main(command) in (1, 2)
    assert f"no option {cut[0]}" in capsys.readouterr().err


def test_a_file_of_options_is_not_passed_over(tmp_path, capsys):
    for verb in ("train", "predict"):
        with pytest.raises(SystemExit):
            main([verb, "--conf", write(tmp_path, TOML)])
        capsys.readouterr()
    assert main(["train", "--conf", write(tmp_path, TOML), "--data", "d", "--output", "o", "--labels", "x"]) == 1
    assert "no option --conf" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["epochs: 7\nseed: 1\nepochs: 1\n", "set:\n  members: 1\n  members: 2\n"])
def test_a_key_of_yaml_that_stands_twice_is_refused(tmp_path, text, capsys):
    pytest.importorskip("yaml")
    with pytest.raises(SystemExit):
        parsed(["train", "--config", write(tmp_path, text, "o.yaml"), "--output", "RUN"])
    assert "line 3: " in (said := capsys.readouterr().err) and "stands there twice" in said
    merged = "data: d\nlabels: [x]\nset:\n  <<: {members: 1}\n  members: 2\n"  # what is merged may be replaced
    assert parsed(["train", "--config", write(tmp_path, merged, "o.yaml"), "--output", "RUN"]).set == ["members=2"]
