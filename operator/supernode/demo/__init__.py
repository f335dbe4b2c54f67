"""What the demo runs and how it is judged.

    corpus      the text: Python source of the running interpreter's standard library; batches; unigram loss
    cut         tensor, pipeline and data parallelism: who has which part, who works with whom
    parameters  start values, and weights and gradients as views of flat arrays
    tape        what a forward pass keeps for its backward pass
    layers      linear, layer norm, attention, MLP: forward and backward as launches on a device
    vocabulary  the embedding and the head with its loss
    gpt         what one device has of a byte-level GPT made of them
    schedule    the order of a pipeline stage's micro batches
    adamw       the optimizer, on flat parameters with f32 master weights
    parallel    one training step on all devices of a worker
    train       the worker's program: `python -m supernode.demo.train`
    verdict     what the demo promises, checked

The training part uses `supernode.emulator.client` as any training code would: every tensor operation is a launch; the
worker loads data and gives orders. Not here: starting the cluster and applying manifests (`commands.demo`).
"""
