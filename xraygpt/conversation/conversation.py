"""The public names of this package, under the module that the reference keeps them in."""

from xraygpt.conversation.chat import Chat
from xraygpt.conversation.messages import CONV_VISION, CONV_VISION_NEW, Conversation, SeparatorStyle

__all__ = ["CONV_VISION", "CONV_VISION_NEW", "Chat", "Conversation", "SeparatorStyle"]
