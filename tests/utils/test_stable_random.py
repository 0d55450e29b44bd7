from cinema_verl.utils.stable_random import Sample, rank, stable_hash


def test_a_hash_is_the_same_everywhere():
    assert stable_hash("abc") == 0xBA7816BF8F01CFEA  # the first 8 bytes of the SHA-256 that FIPS 180-2 prints for "abc"
    assert stable_hash("q", 7) == stable_hash("q/7") == rank("q", "7")
    assert stable_hash() == 0xE3B0C44298FC1C14


def test_a_sample_does_not_depend_on_the_order_of_what_is_offered():
    names = [f"n{i}" for i in range(100)]
    samples = []
    for order in (names, names[::-1]):
        sample = Sample(10, seed=3)
        for name in order:
            sample.offer(name, name)
        samples.append(sample.items())
        assert sample.seen == 100
    assert samples[0] == samples[1] == sorted(sorted(names, key=lambda name: rank(3, name))[:10])
