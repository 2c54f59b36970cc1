"""byhand."""
