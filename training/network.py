"""A Llama in plain torch, parameter names as in transformers, with free choice of positions.

transformers reads a jump in the positions as a boundary between packed sequences, and jumps are just
what training needs (see `sequences.py`). `export_micro.py` checks that LlamaForCausalLM computes the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves convention of transformers. x: (B, heads, L, head_dim)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, block: int = 128) -> Tensor:
    """Causal attention (B, heads, L, head_dim); products by blocks: fastest on a CPU up to 1024 tokens."""
    b, heads, length, dim = q.shape
    if length > 1024:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    out = []
    for start in range(0, length, block):
        end = min(start + block, length)
        mask = torch.full((end - start, end), float("-inf"), dtype=q.dtype).triu(1 + start)
        keys = k[:, :end].transpose(1, 2)
        scores = torch.baddbmm(mask.expand(b * heads, -1, -1), q[:, start:end], keys, alpha=dim**-0.5)
        out.append(scores.softmax(-1) @ v[:, :end])
    return torch.cat(out, dim=1).view(b, heads, length, dim)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, c: LlamaConfig) -> None:
        super().__init__()
        self.heads = c.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(c.hidden_size, c.hidden_size, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (B, L, h)."""
        b, length, h = x.shape
        q, k, v = (
            p(x).view(b, length, self.heads, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.o_proj(out.transpose(1, 2).reshape(b, length, h))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, c: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, h)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-norm block."""

    def __init__(self, c: LlamaConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(c), Mlp(c)
        self.input_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (B, L, h)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Token ids (B, L) and positions (B, L) to last hidden states (B, L, h); logits = hidden @ embeddings."""

    def __init__(self, c: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        dim = c.hidden_size // c.num_attention_heads
        theta = c.rope_parameters["rope_theta"]
        self.register_buffer("freqs", theta ** (-torch.arange(0, dim, 2) / dim), persistent=False)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=c.initializer_range)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Return the normed last hidden states."""
        angle = positions[:, None, :, None].float() * self.freqs
        angle = torch.cat((angle, angle), dim=-1)
        x = self.embed_tokens(ids)
        cos, sin = angle.cos(), angle.sin()
        if torch.is_autocast_enabled("cpu"):
            x, cos, sin = x.bfloat16(), cos.bfloat16(), sin.bfloat16()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)
