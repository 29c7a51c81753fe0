"""What docs/systems.md lists: each row of the papers, what runs it, and what checks it."""

TOP = """# Every system of the papers

Each row is an objective, a penalty, a network or an algorithm of the five papers (P0 to P4), the
system of `examples/train.py` that runs it, the test that checks its equations against a hand
computation or finite differences, and a short run.

```
python examples/train.py --list                   # every system, with the source of its settings
python examples/train.py --system NAME            # its settings; hours, for some
python examples/train.py --system NAME --short    # those of this page
python examples/all_systems.py                    # all runs of this page, one after the other
```

Most runs here are shorter and their networks smaller than in the sources. They show what each
system does with so little; some collapse, as their papers say of them. Seed 0, compiled steps; none
was picked. Seconds are those of the training, compilation included, on two cores of an AMD EPYC
(Zen 5): systems of the plane on one thread each, two at a time; digits on two threads. In the
plane: modes with 20 or more of 2,500 samples within 5% of the radius, and the share of samples
there. On digits: the inception-style score (10 at most) and the Fréchet distance of a thousand, by
[our own classifier](image_scores.md), with which no published figure can be compared.

P0 is *Effects of Gradient Penalty on GANs*, P1 *Stable Training for GANs*, P2 *Tackling the
Gradient Issues in GANs*, P3 *Improving Generalization and Stability of GANs*, P4 *Analyzing
Stability and Properties of GANs*."""

BOTTOM = """
## What was seen

- *Modes.* The saturating GAN ends in one mode, the standard one in five; least squares, smoothed
  labels, maxout and noise inside the networks lose some too. Clipping finds all eight and stays
  fuzzy. On these networks every gradient penalty finds all eight, sharply, and so do spectral norm,
  annealed instance noise and consensus. Nagarajan & Kolter's regulariser with weight .1 ends in one
  mode.
- *P3's settings* (ring of radius 7, SGD, slope of σ(D)), at 128 units: 0-GP six modes, 0-GP-sample
  three, 1-GP two. λ 100 has found none after 20,000 iterations; P3 shows it at 512 units.
- *Unrolled*, 6,000 of the demonstration's 25,000 iterations: the samples are still a cloud.
- *AC-GAN* makes and names the right class, and within a class its samples are all alike, more so
  in the variant. The inception-style score (9.6) does not see that; recall does (.05 and .00).
- *Regularized GAN and EBGAN* have all ten digits; MDGAN too, less clean; BEGAN makes thin ones and
  fours. InfoGAN's rows are not ten different digits yet.
- *The ablation* after 1,000 iterations (WGAN on DCGAN: 800): DCGAN works with both losses. Without
  norms and with constant filters the standard GAN repeats a few shapes, and WGAN makes blurs that
  vary. The perceptron makes one noisy image with either.

## P3's ε-optimal discriminator, built

`python examples/epsilon_optimal.py` builds the network of P3's appendix A for four real and four
fake points of the circle: one hidden softmax layer, k as large as the appendix says that suffices.
It is ε-optimal on its samples and jumps between them; between a real and a fake sample its slope
must reach ε over their distance, and does.

![The discriminator's values, and its largest slope between each real and each fake sample](\
images/epsilon_optimal.png)
"""

HAND = "test_losses.py::test_values_by_hand"
LOOP = "test_penalties.py::test_presets_are_the_naive_loop_times_their_weight"
DIFFERENCE = "test_penalties.py::test_the_gradient_in_every_parameter_is_the_naive_loops_difference"

ROWS = {  # (what, systems, tests)
    "Objectives": [
        ("minimax (saturating)", ["gan-minimax"], [HAND]),
        ("non-saturating", ["gan"], [HAND]),
        ("Wasserstein, clipped or with a penalty", ["wgan", "wgan-gp"], [HAND, LOOP]),
        ("least squares", ["lsgan"], [HAND]),
        ("hinge", ["hinge-gan"], [HAND]),
        (
            "AC-GAN", ["ac-gan"],
            [
                "test_ac_gan.py::test_the_generators_losses",
                "test_ac_gan.py::test_the_critics_loss_is_the_negative_sum_of_both_log_likelihoods",
                "test_ac_gan.py::test_the_class_term_is_minus_log_p_and_not_minus_p",
            ],
        ),
        (
            "Regularized GAN", ["regularized-gan"],
            ["test_regularized.py::test_each_player_of_the_regularized_gan_moves_as_by_hand"],
        ),
        (
            "MDGAN", ["mdgan"],
            [
                "test_regularized.py::test_each_player_of_mdgan_moves_as_by_hand",
                "test_regularized.py::test_the_diffusion_critic_sees_generated_samples",
            ],
        ),
        (
            "EBGAN, with the pulling-away term", ["ebgan"],
            [
                "test_ebgan.py::test_each_player_moves_as_by_hand",
                "test_ebgan.py::test_pulling_away_by_hand",
            ],
        ),
        (
            "BEGAN, its controller and its measure", ["began"],
            [
                "test_began.py::test_the_balance_by_hand",
                "test_began.py::test_the_controller_over_a_run",
            ],
        ),
        (
            "InfoGAN", ["infogan"],
            [
                "test_infogan.py::test_the_information_in_categories",
                "test_infogan.py::test_the_information_in_numbers",
                "test_infogan.py::test_a_step_is_a_descent_of_the_critic_and_then_of_the_generator",
            ],
        ),
        (
            "linear game", ["linear-game"],
            ["test_dirac.py::test_the_linear_games_gradients_are_the_papers"],
        ),
        (
            "Dirac-GAN", ["dirac-gan", "dirac-gan-r1"],
            [
                "test_dirac.py::test_the_final_radius_is_the_published_one",
                "test_dirac.py::test_eigenvalues_of_the_game",
            ],
        ),
    ],
    "Penalties, constraints, noise": [
        ("1-GP", ["gan-1gp"], [LOOP, DIFFERENCE]),
        ("0-GP on interpolates", ["gan-0gp", "gan-0gp-100"], [LOOP, DIFFERENCE]),
        (
            "0-GP-sample: real and fake, real (R₁), fake (R₂)",
            ["gan-0gp-sample", "gan-r1", "gan-r2"],
            [
                LOOP,
                "test_penalties.py::test_0_gp_sample_is_the_mean_of_r1_and_r2",
                "test_penalties.py::test_the_weight_of_r1_is_half_of_mescheders_gamma",
            ],
        ),
        (
            "LP", ["wgan-lp"],
            [LOOP, "test_penalties.py::test_lp_is_exactly_zero_below_slope_one"],
        ),
        (
            "DRAGAN", ["dragan"], [LOOP, "test_penalties.py::test_dragans_points_by_formula"],
        ),
        (
            "P3's rejected two-term form", ["gan-two-term"],
            ["test_penalties.py::test_the_two_term_form_is_the_naive_loop"],
        ),
        (
            "weight clipping, without and with the norms' scales", ["wgan", "p4-wgan"],
            [
                "test_penalties.py::test_clipping_limits_weights_and_biases_and_leaves_scale_and_shift",
                "test_train.py::test_clipping_takes_the_scales_of_batch_norm_only_if_asked",
            ],
        ),
        (
            "spectral normalisation", ["gan-spectral"],
            [
                "test_spectral.py::test_the_singular_value_is_numpys_after_enough_iterations",
                "test_spectral.py::test_gradients_to_order_three_with_the_vectors_fixed",
            ],
        ),
        (
            "instance noise, annealed", ["gan-instance-noise"],
            [
                "test_train.py::test_the_critics_step_with_noise_by_hand",
                "test_train.py::test_the_level_is_that_of_the_iteration",
            ],
        ),
        (
            "noise inside D and G", ["gan-layer-noise"],
            ["test_models.py::test_gradients_of_a_net_with_noise_to_order_two"],
        ),
        (
            "batch norm in a penalised critic: an error", [],
            [
                "test_penalties.py::test_batch_norm_in_a_penalised_critic_is_an_error_that_says_why",
                "test_mistakes.py::test_batch_norm_in_a_penalised_critic",
            ],
        ),
        (
            "cited beside them: moving average of G, smoothed labels",
            ["gan-ema", "gan-smooth-labels"],
            [
                "test_ema.py::test_averages_are_those_of_a_loop",
                HAND,
                "test_losses.py::test_smoothed_labels_ask_for_their_own_probability",
            ],
        ),
    ],
    "Networks": [
        (
            "toy MLP of P3 (Figure 1's D is `models.zero_gp_value_surface`)", ["gan-0gp"],
            ["test_models.py::test_presets_have_the_papers_parameters_and_shapes"],
        ),
        (
            "WGAN-GP's toy", ["wgan-gp"],
            ["test_models.py::test_presets_have_the_papers_parameters_and_shapes"],
        ),
        (
            "P3's MLP for MNIST", ["p3-mnist"],
            ["test_models.py::test_presets_have_the_papers_parameters_and_shapes"],
        ),
        (
            "DCGAN-28 without batch norm", ["dcgan28", "dcgan28-0gp"],
            [
                "test_dcgan.py::test_dcgan28_has_the_papers_parameters",
                "test_dcgan.py::test_dcgan28s_forward_pass_by_hand",
            ],
        ),
        (
            "DCGAN-64", ["dcgan64"],
            [
                "test_dcgan.py::test_a_generators_forward_pass_by_hand",
                "test_dcgan.py::test_dcgan64_is_radfords_figure_and_its_mirror",
            ],
        ),
        (
            "DCGAN-32, WGAN-32", ["p4-dcgan", "p4-wgan"],
            [
                "test_dcgan.py::test_a_critics_forward_pass_by_hand",
                "test_dcgan.py::test_gradients_to_order_three",
            ],
        ),
        (
            "AC-GAN: 1,663,867 and 2,993,760 parameters; its variant, 1,593,888",
            ["ac-gan", "ac-gan-variant"],
            [
                "test_paper_models.py::test_ac_gans_critic_is_the_printed_table",
                "test_paper_models.py::test_ac_gans_generator_is_the_printed_table",
            ],
        ),
        (
            "WGAN's ablation: {standard, WGAN} × {DCGAN, no norm, perceptron}",
            [
                "ablation-gan-dcgan", "ablation-wgan-dcgan", "ablation-gan-no-norm",
                "ablation-wgan-no-norm", "ablation-gan-mlp", "ablation-wgan-mlp",
            ],
            [
                "test_paper_models.py::test_the_ablations_generator_has_four_hidden_layers_of_512",
                "test_example_train.py::test_the_ablation_and_p0s_variants_are_what_their_names_say",
            ],
        ),
        (
            "P0's future work: constant filters, a perceptron, tanh",
            ["p0-constant-filters", "p0-mlp", "p0-tanh"],
            ["test_example_train.py::test_the_ablation_and_p0s_variants_are_what_their_names_say"],
        ),
        (
            "encoder, auto-encoder, maxout", ["mdgan", "ebgan", "original-gan"],
            [
                "test_paper_models.py::test_an_auto_encoder_is_its_decoder_after_its_encoder",
                "test_nn.py::test_maxout_against_numpy",
            ],
        ),
        (
            "P3's ε-optimal discriminator", ["epsilon_optimal.py"],
            [
                "test_epsilon_optimal.py::test_with_the_sufficient_k_it_is_epsilon_optimal",
                "test_epsilon_optimal.py::test_it_is_the_papers_formula_in_loops",
            ],
        ),
    ],
    "Algorithms": [
        (
            "alternating k:1; WGAN's, on fresh batches or on the same",
            ["gan", "wgan", "wgan-same-batch"],
            [
                "test_train.py::test_every_order_is_its_steps_written_out",
                "test_train.py::test_the_same_batch_is_one_array_and_its_latent_points_are_fresh",
            ],
        ),
        ("TTUR", ["gan-ttur"], ["test_train.py::test_two_rates_belong_to_two_sides"]),
        (
            "Fixed-Alt-GD", ["linear-game"],
            [
                "test_dirac.py::test_fixed_alternation_cannot_keep_the_discriminator_optimal",
                "test_train.py::test_alternating_gradient_descent_with_fixed_numbers_of_steps_by_hand",
            ],
        ),
        (
            "MDGAN's two steps", ["mdgan"],
            ["test_regularized.py::test_a_step_leaves_alone_who_does_not_play"],
        ),
        (
            "simultaneous updates", ["gan-simultaneous"],
            ["test_algorithms.py::test_simultaneous_takes_both_gradients_at_one_point"],
        ),
        (
            "D in the inner loop against G in the inner loop", ["gan-d-inner", "gan-g-inner"],
            ["test_train.py::test_every_order_is_its_steps_written_out"],
        ),
        (
            "unrolled, and the same ring without", ["gan-unrolled", "unrolled-ring"],
            [
                "test_algorithms.py::test_unrolled_differentiates_through_every_step",
                "test_algorithms.py::test_unrolled_differentiates_through_adam",
            ],
        ),
        (
            "consensus", ["gan-consensus"],
            [
                "test_algorithms.py::test_consensus_descends_the_energy",
                "test_dirac.py::test_consensus_descends_its_closed_form",
            ],
        ),
        (
            "Nagarajan & Kolter's regulariser", ["gan-nagarajan-kolter"],
            ["test_dirac.py::test_nagarajan_and_kolter_descend_their_closed_form"],
        ),
    ],
}  # fmt: skip
