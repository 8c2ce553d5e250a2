"""Fit a classifier, ask it, and see when its answers can stand on their own."""

import dspex
from dspex import demo


def main() -> None:
    train, unseen = demo.split()  # messages to an imaginary e-bike rental, 12 intents
    program = dspex.fit("text -> label", train)

    answer = program(text="My card was charged twice for one ride")
    print(f"{answer.label}: {answer.confidence:.2f}, answered by {answer.route}")
    ranked = sorted(answer.probabilities("label").items(), key=lambda pair: -pair[1])
    print("most likely:", ", ".join(f"{label} {share:.3f}" for label, share in ranked[:3]))

    answers = program.batch([{"text": row["text"]} for row in unseen])
    right = [answer.label == row["label"] for answer, row in zip(answers, unseen, strict=True)]
    print(f"right on {sum(right) / len(right):.1%} of {len(right)} unseen messages")

    sure = [ok for ok, answer in zip(right, answers, strict=True) if (answer.confidence or 0.0) >= 0.9]
    print(f"at a confidence of 0.9 or more: {len(sure) / len(right):.1%} of them,", end=" ")
    print(f"right on {sum(sure) / len(sure):.1%}")


if __name__ == "__main__":
    main()
