package main

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const tokenKey = "diptych-token"

// Session lets its calls read what they wrote, without touching a message: every answer, refusals too, has a token
// in its trailers, and every call presents the latest.
type Session struct {
	mu    sync.Mutex
	token string
}

// Intercept is a grpc.UnaryClientInterceptor for the connections that share the session.
func (s *Session) Intercept(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	if token := s.Token(); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, tokenKey, token)
	}
	var trailer metadata.MD
	err := invoke(ctx, method, request, reply, connection, append(options, grpc.Trailer(&trailer))...)
	s.keep(trailer.Get(tokenKey))
	return err
}

// Token returns the latest token seen; "" before the first.
func (s *Session) Token() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

func (s *Session) keep(tokens []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, token := range tokens {
		s.token = max(s.token, token) // Of two tokens of one log the greater string is the later.
	}
}
