"""Writes a checkpoint folder in Hugging Face's format from a training run.

python export.py --run RUN --tokenizer TOK --output ../../qwen3_mlx/demo/dense
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from model import Config, Qwen3
from safetensors.torch import save_file
from tokenizers import Tokenizer

HERE = Path(__file__).parent


def hub_tensors(state, config):
    """bf16 tensors under their names in transformers; stacked experts become one tensor each."""
    out = {}
    for name, value in state.items():
        value = value.to(torch.bfloat16)
        if ".mlp.experts." in name:
            stem, part = name.rsplit(".", 1)
            for e in range(config.num_experts):
                out[f"{stem}.{e}.{part}.weight"] = value[e].clone().contiguous()
        else:
            out[name] = value.clone().contiguous()
    return out


def hub_config(c, ids):
    """config.json as transformers 4 wrote it for Qwen3, which mlx-lm and transformers 5 both read."""
    moe = c.num_experts > 0
    config = {
        "architectures": ["Qwen3MoeForCausalLM" if moe else "Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "hidden_size": c.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": c.intermediate_size,
        "max_position_embeddings": c.max_position_embeddings,
        "max_window_layers": c.num_hidden_layers,
        "model_type": "qwen3_moe" if moe else "qwen3",
        "num_attention_heads": c.num_attention_heads,
        "num_hidden_layers": c.num_hidden_layers,
        "num_key_value_heads": c.num_key_value_heads,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": c.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": c.vocab_size,
    }
    if moe:
        config |= {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": c.moe_intermediate_size,
            "norm_topk_prob": True,
            "num_experts": c.num_experts,
            "num_experts_per_tok": c.num_experts_per_tok,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
        }
    return dict(sorted(config.items()))


def generation_config(ids):
    return {
        "bos_token_id": ids["<|endoftext|>"],
        "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def export(state, config, tokenizer, output):
    output.mkdir(parents=True, exist_ok=True)
    tok = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids = {t: tok.token_to_id(t) for t in ("<|endoftext|>", "<|im_end|>")}
    save_file(hub_tensors(state, config), output / "model.safetensors", metadata={"format": "pt"})
    write_json(output / "config.json", hub_config(config, ids))
    write_json(output / "generation_config.json", generation_config(ids))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, output / name)
    shutil.copyfile(HERE / "chat_template.jinja", output / "chat_template.jinja")
    size = sum(f.stat().st_size for f in output.iterdir())
    assert size <= 6_000_000, f"{output} holds {size} bytes, more than 6 MB"
    return size


def load_run(run, averaged=True):
    """(state, config) of a run; `averaged` takes the moving average of the weights."""
    saved = torch.load(run / "state.pt", weights_only=True)
    return saved["ema" if averaged else "model"], Config(**saved["config"])


def load_folder(path):
    """A model from an exported folder, in fp32."""
    from safetensors.torch import load_file

    raw = json.loads((path / "config.json").read_text())
    config = Config(**{k: raw[k] for k in Config.__dataclass_fields__ if k in raw})
    tensors = {k: v.float() for k, v in load_file(path / "model.safetensors").items()}
    for layer in range(config.num_hidden_layers if config.num_experts else 0):
        for part in ("gate_proj", "up_proj", "down_proj"):
            stem = f"model.layers.{layer}.mlp.experts"
            tensors[f"{stem}.{part}"] = torch.stack(
                [tensors.pop(f"{stem}.{e}.{part}.weight") for e in range(config.num_experts)]
            )
    model = Qwen3(config)
    model.load_state_dict(tensors)
    return model.eval()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--tokenizer", type=Path, required=True)
    p.add_argument("--output", type=Path, required=True)
    p.add_argument("--raw", action="store_true", help="the weights themselves instead of their moving average")
    args = p.parse_args()
    state, config = load_run(args.run, not args.raw)
    print(args.output, export(state, config, args.tokenizer, args.output), "bytes")


if __name__ == "__main__":
    main()
