#!/usr/bin/env bash
# Install torch-scatter into an environment that has torch: a prebuilt wheel where PyG has one, else compiled (minutes),
# else not at all: everything works without it.
#
#     bash install_torch_scatter.sh VENV/bin
set -u
bin=$(cd "$1" && pwd)
works() { "$bin/python" -c "import torch, torch_scatter; torch_scatter.scatter(torch.ones(2, 1), torch.tensor([0, 0]), 0)" 2>/dev/null; }
works && exit 0
torch_version=$("$bin/python" -c "import torch; v = torch.__version__; print(v if '+' in v else v + '+cpu')")
echo "torch-scatter: looking for a prebuilt wheel for torch $torch_version"
"$bin/pip" install --quiet --retries 0 --timeout 10 --no-deps --only-binary :all: \
    --find-links "https://data.pyg.org/whl/torch-$torch_version.html" torch-scatter >/dev/null 2>&1
works && exit 0
if command -v c++ >/dev/null || command -v g++ >/dev/null; then
    echo "torch-scatter: none that works; compiling, which takes some minutes"
    "$bin/pip" install --quiet ninja
    # pip's cache may hold a wheel compiled against another torch: then once more without it
    for fresh in "" "--no-cache-dir --force-reinstall"; do
        # shellcheck disable=SC2086
        PATH="$bin:$PATH" "$bin/pip" install --quiet --no-deps --no-build-isolation --no-binary torch-scatter $fresh torch-scatter
        works && exit 0
    done
fi
"$bin/pip" uninstall --quiet --yes torch-scatter 2>/dev/null
echo "torch-scatter: could not be installed; message passing uses plain torch, with the same results"
