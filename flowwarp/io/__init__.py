"""Reading and writing: flow files, images, video. Holds cv2 and imageio."""
