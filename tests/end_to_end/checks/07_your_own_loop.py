# What the notebook 07_your_own_loop must have shown; it runs after its last cell.
zeros = sum(int((net.get_parameter(name) == 0).sum()) for name in pruner.masks)
assert zeros == sum(int((~mask).sum()) for mask in pruner.masks.values())
net.eval()
with torch.no_grad():
    assert torch.allclose(net(data.test_x).softmax(1), probabilities, atol=1e-5)
assert record.sparsity > 0.85 and accuracy > 0.95
