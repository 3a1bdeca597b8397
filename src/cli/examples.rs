//! Examples at the end of each `--help`. `tests/book_commands.rs` parses every line that begins with `mim`.

/// Printed if `mim` is called without a command.
pub(crate) const FIRST: &str = "\
mim pre-trains vision encoders by masked image modeling. Most used:

  mim pretrain                           a small MAE on the embedded images, probed when done
  mim pretrain --data folder:photos      the same on your own images
  mim eval knn --checkpoint runs/mae-1   measure a finished run

`mim --help` lists all commands, `mim COMMAND --help` the options of one, `mim methods` the methods.
";

pub(crate) const MIM: &str = "Examples:
  mim pretrain                                  a small MAE on the embedded images, probed when done
  mim pretrain --method simmim --epochs 20      another method
  mim pretrain --config my.toml --data folder:photos --set encoder.depth=6
  mim finetune --checkpoint runs/mae-1          train its encoder further, with labels
  mim eval linear --checkpoint runs/mae-1       probe a finished run
  mim visualize --checkpoint runs/mae-1 --images photos --output picture.png
  mim doctor                                    what this build and machine can do, for bug reports";

pub(crate) const PRETRAIN: &str = "Examples:
  mim pretrain --data folder:photos --epochs 5
  mim pretrain --config mae_base --arch vit_small --print-config
  mim pretrain --method custom --set masker.type=blockwise --set target.type=hog
  mim pretrain --resume auto --output-dir runs/photos
  mim pretrain --probe-every 5 --keep-best knn_top1 --patience 20";

pub(crate) const BROWSE: &str = "Example:
  mim browse --method cmae --data folder:photos --output batch.png";

pub(crate) const FINETUNE: &str = "Examples:
  mim finetune --checkpoint runs/mae-1 --epochs 20
  mim finetune --checkpoint runs/mae-1 --scratch    the same network from random weights
  mim finetune --checkpoint runs/mae-1 --config linprobe_base";

pub(crate) const REPLAY: &str = "Example:
  mim replay runs/mae-1";

pub(crate) const VISUALIZE: &str = "Examples:
  mim visualize --checkpoint runs/mae-1 --output picture.png
  mim visualize --checkpoint runs/mae-1 --what attention --images folder:photos --count 4";

pub(crate) const COMPARE: &str = "Example:
  mim compare runs/mae-1 --format csv";

pub(crate) const REPORT: &str = "Example:
  mim report runs/mae-1 --output page.html";

pub(crate) const METHODS: &str = "Example:
  mim methods mae";

pub(crate) const PARTS: &str = "Examples:
  mim parts masker    all maskers
  mim parts hog       one part, with its settings";

pub(crate) const INFO: &str = "Examples:
  mim info vit.safetensors
  mim info runs/mae-1";

pub(crate) const FEATURES: &str = "Examples:
  mim features --checkpoint runs/mae-1 --data folder:photos --output features.npy
  mim features --weights vit.safetensors --source timm --data folder:photos --split val --output features.safetensors";

pub(crate) const EXPORT: &str = "Examples:
  mim export --checkpoint runs/mae-1 --format hf --output mae-mine
  mim export --checkpoint runs/mae-1 --format timm --output vit-mine";

pub(crate) const DATA: &str = "Examples:
  mim data stats folder:photos
  mim data stats folder:tiles --set data.range=dtype --write tiles.toml";

pub(crate) const ZOO: &str = "Example:
  mim zoo mae_base";

pub(crate) const CONVERT: &str = "Example:
  mim convert --from timm --to hf_vit --encoder-only vit.safetensors renamed.safetensors";

pub(crate) const PARITY: &str = "Example:
  mim parity mim-methods/tests/goldens";

pub(crate) const BENCH: &str = "Examples:
  mim bench step --method mae --arch vit_tiny --batch 2 --steps 1 --warmup 0
  mim bench data --images photos --repeat 1";

pub(crate) const BENCH_STEP: &str = "Example:
  mim bench step --method simmim --arch vit_small --batch 8";

pub(crate) const BENCH_OP: &str = "Examples:
  mim bench op depthwise --batch 4 --rounds 3
  mim bench op matmul --batch 8 --precision bf16
  mim bench op matmul --batch 8 --tune";

pub(crate) const BENCH_METHOD: &str = "Example:
  mim bench method --method mae --arch vit_tiny --batch 2 --steps 2";

pub(crate) const BENCH_DATA: &str = "Examples:
  mim bench data --images folder:photos --size 224
  mim bench data --images folder:photos --images tar:shards --workers 2    the same images, twice";

pub(crate) const COMPLETIONS: &str = "Examples:
  mim completions bash > ~/.local/share/bash-completion/completions/mim
  mim completions fish > ~/.config/fish/completions/mim.fish
  mim completions zsh > _mim     in a folder of zsh's fpath";

pub(crate) const MAN: &str = "Examples:
  mim man | man -l -          read the main page, with man-db
  mim man --output-dir man    a page for each command";

pub(crate) const DOCTOR: &str = "Examples:
  mim doctor
  mim doctor --json --no-network";
