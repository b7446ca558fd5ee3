"""Chain-of-Layers from top to bottom: run any path of layers, and search a tree of paths.

python -m experiments.examples.naive [MODEL [QUESTIONS]]

The whole idea on four questions, for a plain Llama, in JAX alone: only weights, encoded prompts and
the keys of questions come from cola_jax. `cola_jax.search` with the preset `cola` tries the same
paths in the same order, for any model, and faster: this file runs each path from its first layer.
"""

import functools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

import cola_jax
from cola_jax.question import key_of
from cola_jax.scoring import Options

EXPLORATION = 2.0  # c, the weight of nodes visited rarely
LENGTH_WEIGHT = 0.1  # lambda, the weight of a path's length
LARGEST = 4  # layers of a block that is skipped or repeated, and its extra runs
LEAVES = 16  # paths that are run at once
STOP = -1  # pads a path

# 1. A model runs any path. The weights of its L layers are stacked, so that a path is a vector of
# indices, and paths of any length are the same program: padding leaves the state as it is.


def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotate(x, cos, sin):
    """Rotate the halves of each head [T, N, H] by the angles [T, 1, H / 2] of its position."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def run_layer(layer, h, cos, sin, sees, eps):
    """Run a layer on the states h [T, D] of the tokens of a prompt; `sees` is the mask [T, S]."""
    x = rms_norm(h, layer.attention_norm, eps)
    q = rotate(jnp.einsum("td,dnh->tnh", x, layer.q), cos, sin)
    k = rotate(jnp.einsum("td,dkh->tkh", x, layer.k), cos, sin)
    v = jnp.einsum("td,dkh->tkh", x, layer.v)
    tokens, heads, width = q.shape
    grouped = q.reshape(tokens, k.shape[1], -1, width)  # [T, K, G, H]: G queries share a key
    scores = jnp.einsum("tkgh,skh->kgts", grouped, k) / math.sqrt(width)
    shares = jax.nn.softmax(jnp.where(sees, scores, -1e30), axis=-1)
    attended = jnp.einsum("kgts,skh->tkgh", shares, v).reshape(tokens, heads, width)
    h = h + jnp.einsum("tnh,nhd->td", attended, layer.o)
    x = rms_norm(h, layer.mlp_norm, eps)
    return h + (jax.nn.silu(x @ layer.gate) * (x @ layer.up)) @ layer.down


def run_path(model, prompt, path):
    """Run the layers [P] of a path; return the logits [Q, V] at the tokens that are read."""
    (kind,) = model.config.kinds
    angles = prompt.positions[:, None, None] * model.config.ropes[0].frequencies(kind.head_dim)
    # the options are packed after the prompt: the tokens of each see the prompt and themselves
    branch = prompt.branch
    sees = jnp.tril((branch == 0) | (branch == branch[:, None]))

    def step(h, i):
        layer = jax.tree.map(lambda stack: stack[jnp.maximum(i, 0)], model.layers[0])
        after = run_layer(layer, h, jnp.cos(angles), jnp.sin(angles), sees, model.config.norm_eps)
        return jnp.where(i == STOP, h, after), None

    h, _ = jax.lax.scan(step, model.embedding[prompt.ids], path)
    h = rms_norm(h[prompt.read], model.norm, model.config.norm_eps)
    return h @ (model.embedding.T if model.head is None else model.head)


# 2. Many paths run at once, and answer with the option of the highest log-likelihood.


@functools.partial(jax.jit, static_argnames="options")
def answer(model, prompt, option, paths, options):
    """Return the likeliest of J options on each path [C, P]; token q is of `option[q]` [Q]."""
    logits = jax.vmap(run_path, (None, None, 0))(model, prompt, paths)
    logprobs = jax.nn.log_softmax(logits)[:, jnp.arange(len(option)), prompt.targets]  # [C, Q]
    return jnp.argmax(logprobs @ (option[:, None] == jnp.arange(options)), axis=-1)


# 3. A tree of paths: the children of a node have one more edit, a block skipped or repeated.


class Tree:
    """The nodes of a search in lists, with an entry for each; the first is the model's own path."""

    def __init__(self, key, num_layers):
        self.key = key
        self.num_layers = num_layers
        self.paths = [tuple(range(num_layers))]
        self.parents = [-1]
        self.visits = [1]  # paths at and below the node, those included that are yet to be run
        self.value = [0]  # how many of them gave the target

    def select(self):
        """Add a child of a node of v visits with fewer than 2 sqrt(v), along the best UCB."""
        node = 0
        while len(children := self.children(node)) >= 2 * math.sqrt(self.visits[node]):
            node = max(children, key=self.ucb)  # of equals the first
        self.paths.append(self.edited(node))
        self.parents.append(node)
        self.visits.append(0)
        self.value.append(0)
        self.back_up(len(self.paths) - 1, self.visits, 1)

    def children(self, node):
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def ucb(self, node):
        """Return Q/v - lambda |P|/L + c sqrt(ln V / v), as a multiple of c sqrt(ln V)."""
        mean = np.float32(self.value[node]) / np.float32(self.visits[node])
        length = np.float32(len(self.paths[node]) / self.num_layers)
        weight = np.float32(EXPLORATION * math.sqrt(math.log(self.visits[0])))
        return (mean - LENGTH_WEIGHT * length) / weight + np.float32(self.visits[node] ** -0.5)

    def edited(self, node):
        """Draw a new path that is an edit of a node's: the kind first, then the edit."""
        path = self.paths[node]
        # those of the node that is made, whatever the waves and the budget
        key = jax.random.fold_in(self.key, len(self.paths))
        words = jax.random.bits(key, (128,), jnp.uint32).tolist()
        kinds = [edits for edits in self.edits(len(path)) if edits]
        for attempt in range(len(kinds)):
            edits = kinds.pop(choose(words[64 + attempt], len(kinds)))
            children = [
                path[:start] + runs * path[start : start + size] + path[start + size :]
                for start, size, runs in edits
            ]
            for word in words[80 + 16 * attempt :][:16]:
                child = children[choose(word, len(children))]
                if child not in self.paths:
                    return child
            if new := [child for child in children if child not in self.paths]:
                return new[choose(words[67 + attempt], len(new))]
        # the library closes such a node, and goes on without it
        raise SystemExit(f"no edit of {path} makes a new path: give fewer simulations.")

    def edits(self, length):
        """List the skips and the repeats of a path: the start and size of a block, and its runs."""
        sizes = range(1, LARGEST + 1)
        skips = [(k, 0) for k in sizes]
        repeats = [(k, 1 + extra) for k in sizes for extra in sizes]
        shortest = max(1, round(0.25 * self.num_layers))
        longest = 2 * self.num_layers
        for shapes in (skips, repeats):
            yield [
                (start, k, runs)
                for k, runs in shapes
                if shortest <= length + k * (runs - 1) <= longest
                for start in range(length - k + 1)
            ]

    def back_up(self, node, column, amount):
        while node >= 0:
            column[node] += amount
            node = self.parents[node]


def choose(word, count):
    return word * count >> 32  # 0 to count - 1, evenly


# 4. A search for a target: select leaves, run them, back their verdicts up, a wave at a time.


def search(run, key, num_layers, target, simulations):
    """Return the paths that were tried, and the options `run` [C, P] -> [C] answered with."""
    tree = Tree(jax.random.wrap_key_data(key, impl="threefry2x32"), num_layers)
    answers = []
    while True:
        first = len(answers)
        paths = np.full((LEAVES if first else 1, 2 * num_layers), STOP)
        for row, path in zip(paths, tree.paths[first:], strict=False):
            row[: len(path)] = path
        answers += run(paths).tolist()[: len(tree.paths) - first]
        for node in range(first, len(answers)):
            tree.back_up(node, tree.value, int(answers[node] == target))
        for _ in range(min(LEAVES, 1 + simulations - len(answers))):
            tree.select()
        if len(tree.paths) == len(answers):
            return tree.paths, answers


# 5. With enough perturbed models some path gives any answer. So what is found for the right one
# counts only beyond a control: the same search for a wrong option that the model does not give.


def main(model_name="smollm2", questions="demo", *, simulations=48):
    model = cola_jax.load(model_name, dtype="float32")
    if (kind := model.config.model_type) != "llama":
        raise SystemExit(f"{model_name} is a {kind}, and this file runs plain Llamas alone.")
    scorer = Options(cola_jax.load_tokenizer(model_name))
    results = []
    for question in cola_jax.load_questions(questions, limit=4):
        encoded = scorer.encode(question)
        options = len(question.options)
        run = functools.partial(answer, model, encoded.prompts, encoded.option, options=options)
        key = jnp.asarray(key_of(0, question.id))  # of a seed and the question, whatever the target
        find = functools.partial(search, run, key, model.config.num_layers, simulations=simulations)
        gold = question.answer
        searches = {"right": (gold, *find(gold))}
        own = searches["right"][2][0]
        others = [j for j in range(options) if j not in (gold, own)]
        if own != gold and others:
            searches["control"] = (others[0], *find(others[0]))
        print(question.text)
        for name, (target, paths, answers) in searches.items():
            reached = [path for path, said in zip(paths, answers, strict=True) if said == target]
            best = cola_jax.format_path(min(reached, key=len)) if reached else "none"
            count = f"{len(reached)} of {len(paths)} paths"
            print(f"  {name}: {question.options[target]}: {count}, the shortest is {best}")
            results.append((question.id, target, paths, answers))
    return results


if __name__ == "__main__":
    main(*sys.argv[1:3])
