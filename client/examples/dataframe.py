"""People of an image as a pandas DataFrame.

Run:
    python -m builders serve                        # in another terminal
    python client/examples/dataframe.py grpc://127.0.0.1:8001 street.jpg

or cell by cell in Jupyter or VS Code (`# %%` starts a cell); then assign `address` and
`path` by hand. Needs `pip install pandas`.
"""

# %%
import sys

import cv2

from personserve import Client

if len(sys.argv) != 3:
    sys.exit(__doc__)
address, path = sys.argv[1:]

# %% Boxes would come from a detector (yolo_boxes.py); here: the image's two halves.
image = cv2.imread(path)
height, width = image.shape[:2]
boxes = [[0, 0, width / 2, height], [width / 2, 0, width, height]]

with Client(address) as client:
    people = client.attributes(image, boxes)

# %% One row for each person: the box, the gender, and which models are untrained.
table = people.to_pandas()
table["most_similar"] = [people.nearest(person, 2)[1][0] for person in people]

# %% Embeddings stay one array [N, D], in the order of the table's rows.
print(people.embeddings.shape)

# %%
print(table.to_string())
print(table.groupby("gender")["gender_probability"].describe())

# %% In a notebook, a result is a table with thumbnails as long as `image` exists.
people  # noqa: B018 - the last line of a cell is shown
