"""What the demo runs and how it is judged.

    corpus      the text: Python source of the running interpreter's standard library; batches; unigram loss
    layers      linear, layer norm, attention, MLP: forward and backward as launches on a device
    gpt         a byte-level GPT made of them
    adamw       the optimizer, on flat parameters with f32 master weights
    parallel    one replica per device, gradients averaged over all devices of all workers
    train       the worker's program: `python -m supernode.demo.train`
    verdict     what the demo promises, checked

The training part uses `supernode.emulator.client` as any training code would: every tensor operation is a launch; the
worker loads data and gives orders. Not here: starting the cluster and applying manifests (`commands.demo`).
"""
