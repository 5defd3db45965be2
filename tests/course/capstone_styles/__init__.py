"""Correct solutions of the capstone (notebook 11) in different styles. The judge must accept all of them."""

from tests.course.capstone_styles import flat, functional, fused, separate, student

STYLES = {"fused modules": fused.ADAPTER, "functional": functional.ADAPTER, "separate heads": separate.ADAPTER,
          "one flat vector": flat.ADAPTER, "from the specification alone": student.ADAPTER}
