"""Images beside text: as many image tokens as features, in the form of pixels that the model takes, or none at all."""

import pytest
import torch
from torch import nn

from shardproof.frameworks.transformers.images import find_patch_shape, list_with_images

IMAGE, IGNORED = 5, -100
IDS = torch.tensor([[1, 2, IMAGE, 4], [6, 7, 8, 9]])


class Configuration:
    hidden_size = 8

    def __init__(self, **fields):
        self.image_token_id = IMAGE
        vars(self).update(fields)

    def get_text_config(self):
        return self


class Tower(nn.Module):
    """Turns images [B, 3, H, W] into 3 features each; refuses images in another form."""

    def __init__(self, **fields):
        super().__init__()
        self.config = Configuration(**fields)
        self.patch_embed = nn.Conv2d(3, 4, 2, stride=2)

    def forward(self, input_ids=None, pixel_values=None, labels=None, token_type_ids=None):
        pass

    def get_image_features(self, pixel_values):
        batch, _, _, _ = pixel_values.shape
        return torch.zeros(batch, 3, 8)


def list_for(model, labels=None):
    return list(list_with_images(model, IDS, labels, IGNORED, seed=0))


def test_image_tokens_stand_after_the_first_and_are_as_many_as_features():
    found, *_ = list_for(Tower(image_size=4), labels=IDS)
    assert found["input_ids"].tolist() == [[1, *[IMAGE] * 3, 2, 1, 4], [6, *[IMAGE] * 3, 7, 8, 9]]
    assert found["labels"][:, 1:4].eq(IGNORED).all()
    assert found["pixel_values"].shape == (2, 3, 4, 4)
    assert torch.equal(found["token_type_ids"], (found["input_ids"] == IMAGE).long())


def test_height_and_width_may_differ():
    found, *_ = list_for(Tower(image_size=[4, 6]))
    assert found["pixel_values"].shape == (2, 3, 4, 6)
    assert "labels" not in found


@pytest.mark.parametrize("fields", [{"image_token_id": None, "image_size": 4}, {"image_size": None}])
def test_a_model_without_an_image_token_or_a_size_gets_none(fields):
    assert list_for(Tower(**fields)) == []


def test_features_that_rows_cannot_share_are_left_out():
    model = Tower(image_size=4)
    model.get_image_features = lambda pixel_values: torch.zeros(1, 3, 8)
    assert list_for(model) == []


def test_the_patches_of_all_images_are_one_matrix_where_their_grid_is_an_argument():
    def forward(input_ids=None, pixel_values=None, image_grid_thw=None):
        pass

    def get_image_features(pixel_values, image_grid_thw):
        rows, _ = pixel_values.shape
        assert int(image_grid_thw.prod(-1).sum()) == rows
        return [torch.zeros(4, 8), torch.zeros(4, 8)]

    model = Tower()
    model.forward, model.get_image_features = forward, get_image_features
    (found,) = list_for(model)
    assert found["pixel_values"].shape == (2 * 16, 3 * 2 * 2)
    assert found["input_ids"].eq(IMAGE).sum(1).tolist() == [4, 4]


def test_the_patch_is_what_the_first_layer_takes():
    assert find_patch_shape(Tower()) == (3, 2, 2)
    assert find_patch_shape(nn.Linear(2, 2)) == ()
