package spool

import (
	"testing"
	"time"
)

// benchSizes are those of batches: a few lines, what a busy minute makes, and
// a full one.
var benchSizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}}

func benchBatch(size int) *Batch {
	return &Batch{ID: NewID(), Created: time.Now(), Lines: size / 100, Meta: make([]byte, 64), Text: make([]byte, size)}
}

// BenchmarkAppend makes a batch durable; the oldest make room for it.
func BenchmarkAppend(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			s := open(b, Options{Dir: tempDir(b), MaxBytes: 64 << 20})
			batch := benchBatch(size.n)
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Append(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkThrough is the way of a batch through the spool: it is made durable,
// read, and taken off when it has been delivered.
func BenchmarkThrough(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			s := open(b, Options{Dir: tempDir(b), MaxBytes: 64 << 20})
			batch := benchBatch(size.n)
			var buf []byte
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Append(batch); err != nil {
					b.Fatal(err)
				}
				got, ok, err := s.Peek(&buf)
				if err != nil || !ok || len(got.Text) != size.n {
					b.Fatal(ok, err)
				}
				if err := s.Done(got.Seq); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen opens a spool that an outage has filled.
func BenchmarkOpen(b *testing.B) {
	b.Run("64MiB", func(b *testing.B) {
		o := Options{Dir: tempDir(b), MaxBytes: 64 << 20}
		s := open(b, o)
		batch := benchBatch(64 << 10)
		for range 1000 {
			if _, err := s.Append(batch); err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
		b.ReportAllocs()
		for b.Loop() {
			s, err := Open(o)
			if err != nil || s.Stats().Pending.Lines != int64(1000*batch.Lines) {
				b.Fatalf("%+v, %v", s.Stats(), err)
			}
			s.Close()
		}
	})
}
